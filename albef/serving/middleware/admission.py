"""Limits of the number, size and duration of requests."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import NoReturn

from starlette.types import Message, Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.limits import COMMAS, Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import (
    Client,
    ClientGoneError,
    Exchange,
    HttpMiddleware,
    exchange_of,
)

_SOON = 0.01  # Seconds of an answer before its client is watched.
_PIECE = 16 * 1024  # Bytes of a body that must arrive in time, and are parsed in one step.


@dataclass(eq=False)
class Admission(HttpMiddleware):
    """Middleware that limits the number, size and duration of requests.

    A request takes a slot before its body is read, or is refused: above the limit of all clients
    (503), or of its client (429). The announced bytes of its body are limited in the same way. The
    body must then arrive fast enough (408) and within its size (413), before any parser runs.
    Finally, an answer is cancelled if it takes too long (504), or if its client has gone. Of
    several clients, none can take more than half of the slots and bytes.
    """

    limits: Limits
    metrics: Metrics
    _slots: Counter[str] = field(default_factory=Counter)
    _bytes: Counter[str] = field(default_factory=Counter)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        name = exchange.client.name
        self._take_slot(exchange.client)
        cancel = _Cancel()
        try:
            body = await self._read(exchange, receive, cancel)
            await self._answer(scope, body, receive, send, cancel)
        except asyncio.CancelledError:
            if cancel.reason is None:  # The server cancels it.
                raise
            cancel.task.uncancel()
            raise cancel.reason from None
        finally:
            self._slots[name] -= 1
            self._bytes[name] -= exchange.held
            self.metrics.held_bytes -= exchange.held
            if not self._slots[name]:
                del self._slots[name], self._bytes[name]

    def _take_slot(self, client: Client) -> None:
        if self._slots.total() >= self.limits.requests:
            self._refuse("requests", 503, "the server is at capacity")
        most = self.limits.share(self.limits.requests)
        most = min(client.max_requests or most, most)
        if self._slots[client.name] >= most:
            self._refuse("client", 429, f"the token allows {most} requests at a time")
        if client.request_rate:
            client.request_rate.take()
        self._slots[client.name] += 1

    def _hold(self, exchange: Exchange, count: int) -> None:
        """Count bytes of a body, which are announced or have arrived."""
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

    async def _read(self, exchange: Exchange, receive: Receive, cancel: "_Cancel") -> bytearray:
        """Return the whole body.

        The limit is lower for a JSON body, because parsing takes many times its memory.
        """
        is_form = exchange.headers.get("content-type", "").startswith("multipart/form-data")
        max_bytes = self.limits.body if is_form else min(self.limits.json, self.limits.body)
        length = exchange.headers.get("content-length", "")
        announced = int(length[:20]) if length.isdecimal() else 0
        if announced > max_bytes:
            raise _too_large(max_bytes)
        self._hold(exchange, announced)
        body, more, due, limits = bytearray(), True, _PIECE, self.limits
        rate = f"{_PIECE} bytes every {limits.piece_seconds:g} s"
        slow = ApiError(408, f"the body must arrive within {limits.body_seconds:g} s, and {rate}")
        loop = asyncio.get_running_loop()
        end = loop.time() + limits.body_seconds
        timer = loop.call_later(min(limits.body_seconds, limits.piece_seconds), cancel, slow)
        try:
            while more:
                if len(body) >= due:
                    due = len(body) + _PIECE
                    timer.cancel()
                    timer = loop.call_at(min(end, loop.time() + limits.piece_seconds), cancel, slow)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                more = message.get("more_body", False)
                exchange.received = len(body)
                if exchange.received > max_bytes:
                    raise _too_large(max_bytes)
                self._hold(exchange, max(0, exchange.received - exchange.held))
        finally:
            timer.cancel()
        if not is_form and body.count(b",") > COMMAS:
            raise ApiError(413, f"the body has more than {COMMAS} commas; send fewer values")
        return body

    async def _answer(
        self, scope: Scope, body: bytearray, receive: Receive, send: Send, cancel: "_Cancel"
    ) -> None:
        """Let the application answer until the time limit, or until the client is gone."""
        more = True

        async def replay() -> Message:
            nonlocal more
            if not more:
                return await receive()
            if len(body) > _PIECE:
                await asyncio.sleep(0)  # Others are served between two pieces.
            piece, body[:_PIECE] = bytes(body[:_PIECE]), b""
            more = bool(body)
            return {"type": "http.request", "body": piece, "more_body": more}

        async def watch() -> None:
            """Cancel the answer if its client leaves."""
            while (await receive())["type"] != "http.disconnect":
                pass
            if not exchange_of(scope).done:
                cancel(ClientGoneError())

        loop, seconds = asyncio.get_running_loop(), self.limits.seconds
        tasks: list[asyncio.Task[None]] = []
        late = ApiError(504, f"the answer was not ready within {seconds:g} s")
        # Most answers are sent before a task that watches their client would pay off.
        timers = [
            loop.call_later(seconds, cancel, late),
            loop.call_later(_SOON, lambda: tasks.append(loop.create_task(watch()))),
        ]
        try:
            await self.app(scope, replay, send)
        finally:
            for timer in timers:
                timer.cancel()
            for task in tasks:
                task.cancel()


class _Cancel:
    """Function that cancels the current task for a reason, which the task then raises."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.reason: Exception | None = None

    def __call__(self, reason: Exception) -> None:
        self.reason = reason
        self.task.cancel()


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body exceeds {max_bytes} bytes")
