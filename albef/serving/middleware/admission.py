"""Limits of the number, size and duration of requests."""

import asyncio
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NoReturn

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

_TICK = 0.01  # Seconds between two checks of all open requests.
_PIECE = 16 * 1024  # Bytes of a body that must arrive in time.
_STEP = 24 * 1024  # Bytes of a body that are parsed in one step of the event loop.
# A body stays in pieces, because growing 16 MiB of contiguous memory would hold up the loop.
_Body = deque[bytearray]


@dataclass(eq=False)
class _Open:
    """A request in progress, and the error that cancels its task at a time."""

    task: asyncio.Task[Any]
    receive: Receive
    exchange: Exchange
    due: float
    status: int
    text: str
    reason: Exception | None = None  # why the task was cancelled
    watching: asyncio.Task[None] | None = None

    def cancel(self, reason: Exception) -> None:
        """Cancel the task for a reason, which it then raises."""
        self.reason = reason
        self.task.cancel()

    async def watch(self) -> None:
        """Cancel the answer if its client leaves."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if not self.exchange.done:
            self.cancel(ClientGoneError())


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
    # Timers and tasks of each request would take longer than the rest of this middleware.
    _open: set[_Open] = field(default_factory=set)
    _is_checking: bool = False

    def __post_init__(self) -> None:
        limits = self.limits
        self._slow = (
            f"the body must arrive within {limits.body_seconds:g} s, and {_PIECE} bytes every "
            f"{limits.piece_seconds:g} s"
        )
        self._late = f"the answer was not ready within {limits.seconds:g} s"

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, task = exchange_of(scope), asyncio.current_task()
        assert task is not None
        name = exchange.client.name
        self._take_slot(exchange.client)
        request = _Open(task, receive, exchange, math.inf, 408, self._slow)
        self._open.add(request)
        if not self._is_checking:
            self._is_checking = True
            task.get_loop().call_later(_TICK, self._check, task.get_loop())
        try:
            body = await self._read(request)
            request.status, request.text = 504, self._late
            request.due = time.monotonic() + self.limits.seconds
            await self.app(scope, _replay(body, receive), send)
        except asyncio.CancelledError:
            if request.reason is None:  # The server cancels it.
                raise
            task.uncancel()
            raise request.reason from None
        finally:
            self._open.remove(request)
            if request.watching:
                request.watching.cancel()
            self._slots[name] -= 1
            self._bytes[name] -= exchange.held
            self.metrics.held_bytes -= exchange.held
            if not self._slots[name]:
                del self._slots[name], self._bytes[name]

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the requests that are late, and watch whether clients that wait leave."""
        now = time.monotonic()
        for each in self._open:
            if now >= each.due:
                each.due = math.inf
                each.cancel(ApiError(each.status, each.text))
            elif each.status == 504 and each.watching is None:
                each.watching = loop.create_task(each.watch())
        self._is_checking = bool(self._open)
        if self._open:
            loop.call_later(_TICK, self._check, loop)

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

    async def _read(self, request: _Open) -> _Body:
        """Return the whole body, in pieces.

        The limit is lower for a JSON body, because parsing takes many times its memory.
        """
        exchange, limits = request.exchange, self.limits
        is_form = exchange.headers.get("content-type", "").startswith("multipart/form-data")
        max_bytes = limits.body if is_form else min(limits.json, limits.body)
        length = exchange.headers.get("content-length", "")
        announced = int(length[:20]) if length.isdecimal() else 0
        if announced > max_bytes:
            raise _too_large(max_bytes)
        self._hold(exchange, announced)
        body, more, end = _Body(), True, time.monotonic() + limits.body_seconds
        while more:
            if not body or len(body[-1]) >= _PIECE:
                body.append(bytearray())
                request.due = min(end, time.monotonic() + limits.piece_seconds)
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            body[-1] += piece
            more = message.get("more_body", False)
            exchange.received += len(piece)
            if exchange.received > max_bytes:
                raise _too_large(max_bytes)
            self._hold(exchange, max(0, exchange.received - exchange.held))
        if not is_form and sum(piece.count(b",") for piece in body) > COMMAS:
            raise ApiError(413, f"the body has more than {COMMAS} commas; send fewer values")
        return body


def _replay(body: _Body, receive: Receive) -> Receive:
    """Return a function that receives a body that has been read, at most a step at a time."""
    more = True

    async def replay() -> Message:
        nonlocal more
        if not more:
            return await receive()
        first = body[0]
        piece = bytes(first[:_STEP])
        del first[:_STEP]
        if not first:
            body.popleft()
        more = bool(body)
        if more:
            await asyncio.sleep(0)  # Others are served between two pieces.
        return {"type": "http.request", "body": piece, "more_body": more}

    return replay


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"the body exceeds {max_bytes} bytes")
