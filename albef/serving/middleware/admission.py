"""Limits of the number, size and duration of requests."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

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

    Before it reads a body, it refuses requests above the concurrency limit (503), and above the
    client's limit (429). It then reads the whole body and checks its size (413), its time (408) and
    the bytes of all bodies (503) before any parser runs. A request takes no concurrency slot until
    its body has arrived. Finally, it cancels an answer that takes too long (504), or whose client
    has gone.
    """

    limits: Limits
    metrics: Metrics
    _working: Counter[str] = field(default_factory=Counter)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        self._check_slot(exchange.client)
        try:
            body = await self._read(exchange, receive)
            with self._slot(exchange.client):
                await self._answer(scope, exchange, body, receive, send)
        finally:
            self.metrics.held_bytes -= exchange.received

    def _check_slot(self, client: Client) -> None:
        if self._working.total() >= self.limits.requests:
            self.metrics.refused.labels("requests").inc()
            raise ApiError(503, "the server is at capacity; retry after 1 s", 1)
        if client.max_requests and self._working[client.name] >= client.max_requests:
            self.metrics.refused.labels("client").inc()
            raise ApiError(
                429,
                f"the token allows {client.max_requests} requests at a time; retry after 1 s",
                1,
            )

    @contextlib.contextmanager
    def _slot(self, client: Client) -> Iterator[None]:
        self._check_slot(client)
        self._working[client.name] += 1
        try:
            yield
        finally:
            self._working[client.name] -= 1
            if not self._working[client.name]:
                del self._working[client.name]

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        """Return the whole body.

        The limit is lower for a JSON body, because parsing takes many times its memory.
        """
        is_form = exchange.headers.get("content-type", "").startswith("multipart/form-data")
        max_bytes = self.limits.body if is_form else min(self.limits.json, self.limits.body)
        length = exchange.headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > max_bytes:
            raise _too_large(max_bytes)
        parts, more = [], True
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    exchange.received += len(parts[-1])
                    self.metrics.held_bytes += len(parts[-1])
                    if exchange.received > max_bytes:
                        raise _too_large(max_bytes)
                    if self.metrics.held_bytes > self.limits.all_bodies:
                        self.metrics.refused.labels("bytes").inc()
                        raise ApiError(503, "the server holds too many bodies; retry after 1 s", 1)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self.limits.body_seconds:g} s"
            ) from None
        return b"".join(parts)

    async def _answer(
        self, scope: Scope, exchange: Exchange, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Let the application answer until the time limit, or until the client is gone."""
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answering = asyncio.ensure_future(self.app(scope, replay, send))
        leaving = asyncio.ensure_future(leave())
        try:
            done, _ = await asyncio.wait(
                (answering, leaving),
                timeout=self.limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if answering not in done and not exchange.done:
                if leaving in done:
                    raise ClientGoneError
                raise ApiError(504, f"the answer was not ready within {self.limits.seconds:g} s")
            await answering
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body exceeds {max_bytes} bytes")
