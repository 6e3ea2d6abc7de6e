"""Limits of the number, size and duration of requests."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from starlette.types import Message, Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import (
    Client,
    ClientGoneError,
    Exchange,
    HttpMiddleware,
    exchange_of,
)


@dataclass(eq=False)
class Admission(HttpMiddleware):
    """Middleware that limits the number, size and duration of requests.

    A request takes a slot before its body is read, or is refused: above the limit of all clients
    (503), or of its client (429). The announced bytes of its body are limited in the same way. The
    body must then arrive in time (408) and within its size (413), before any parser runs. Finally,
    an answer is cancelled if it takes too long (504), or if its client has gone. Of several
    clients, none can take more than half of the slots and bytes.
    """

    limits: Limits
    metrics: Metrics
    _slots: Counter[str] = field(default_factory=Counter)
    _bytes: Counter[str] = field(default_factory=Counter)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, limits = exchange_of(scope), self.limits
        with self._slot(exchange):
            try:
                async with asyncio.timeout(limits.body_seconds):
                    body = await self._read(exchange, receive)
            except TimeoutError:
                text = f"the body must arrive within {limits.body_seconds:g} s"
                raise ApiError(408, text) from None
            try:
                async with asyncio.timeout(limits.seconds), asyncio.TaskGroup() as group:
                    watching = group.create_task(_watch(exchange, receive))
                    await self.app(scope, _replay(body, receive), send)
                    watching.cancel()
            except TimeoutError:
                text = f"the answer was not ready within {limits.seconds:g} s"
                raise ApiError(504, text) from None
            except ExceptionGroup as errors:  # as a task group raises the error of a task
                raise errors.exceptions[0] from None

    @contextlib.contextmanager
    def _slot(self, exchange: Exchange) -> Iterator[None]:
        """Take a slot of the client; at the end, give it back with the bytes that are held."""
        name = exchange.client.name
        self._check_slots(exchange.client)
        self._slots[name] += 1
        try:
            yield
        finally:
            self._slots[name] -= 1
            self._bytes[name] -= exchange.held
            self.metrics.held_bytes -= exchange.held
            if not self._slots[name]:
                del self._slots[name], self._bytes[name]

    def _check_slots(self, client: Client) -> None:
        if self._slots.total() >= self.limits.requests:
            self._refuse("requests", 503, "the server is at capacity")
        most = self.limits.share(self.limits.requests)
        most = min(client.max_requests or most, most)
        if self._slots[client.name] >= most:
            self._refuse("client", 429, f"the token allows {most} requests at a time")
        if client.request_rate:
            client.request_rate.take()

    def _hold(self, exchange: Exchange, count: int) -> None:
        name, limits = exchange.client.name, self.limits
        most = limits.share(limits.all_bodies, limits.body)
        if self.metrics.held_bytes + count > limits.all_bodies:
            self._refuse("bytes", 503, "the server holds too many bodies")
        if self._bytes[name] + count > most:
            self._refuse("bytes", 429, f"the token has more than {most} bytes in progress")
        exchange.held += count
        self._bytes[name] += count
        self.metrics.held_bytes += count

    def _refuse(self, reason: str, status: int, text: str) -> NoReturn:
        self.metrics.refused.labels(reason).inc()
        raise ApiError(status, f"{text}; retry after 1 s", 1)

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        """Return the whole body.

        The limit is lower for a JSON body, because parsing takes many times its memory.
        """
        limits = self.limits
        is_form = exchange.headers.get("content-type", "").startswith("multipart/form-data")
        max_bytes = limits.body if is_form else min(limits.json, limits.body)
        length = exchange.headers.get("content-length", "")
        announced = int(length[:20]) if length.isdecimal() else 0
        if announced > max_bytes:
            raise _too_large(max_bytes)
        self._hold(exchange, announced)
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            exchange.received = len(body)
            if exchange.received > max_bytes:
                raise _too_large(max_bytes)
            self._hold(exchange, max(0, exchange.received - exchange.held))
        return bytes(body)


async def _watch(exchange: Exchange, receive: Receive) -> None:
    """Raise an error if the client leaves before its answer was sent."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not exchange.done:
        raise ClientGoneError


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives a body that has been read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body exceeds {max_bytes} bytes")
