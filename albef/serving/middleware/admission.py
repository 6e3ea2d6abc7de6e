"""How much is worked on at once, how large and for how long; and the short way to a route."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import (
    Client,
    ClientGoneError,
    Exchange,
    HttpMiddleware,
    State,
    exchange_of,
    full,
    media_type,
    path_of,
)

_WATCH = 0.02  # seconds after which it is watched whether the client still waits


@dataclass(eq=False)
class Admission(HttpMiddleware):
    """Refuses what is more than so many requests at once (503), of one client too (429), before
    anything of them is read.

    Reads a body as a whole, so that its size (413), its time (408) and the bytes of all bodies at
    once (503) are bounded before anything looks into it; one that is still to come takes nobody's
    place. Then gives up an answer that takes too long (504), or that nobody waits for any more.
    """

    limits: Limits
    metrics: Metrics
    state: State
    _working: Counter[str] = field(default_factory=Counter)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        scope.get("trust", lambda: None)()
        self._check_slot(exchange.client)
        try:
            body = await self._read(exchange, receive) if exchange.unread else b""
            with self._slot(exchange.client):
                await self._answer(scope, exchange, body, receive, send)
        finally:
            self.metrics.held_bytes -= exchange.received

    def _check_slot(self, client: Client) -> None:
        if self._working.total() >= self.limits.requests:
            self.state.count_refusal()
            raise full()
        if client.max_requests and self._working[client.name] >= client.max_requests:
            self.metrics.refused.labels("client").inc()
            raise Problem(429, f"{client.max_requests} requests with this token are worked on", 1)

    @contextlib.contextmanager
    def _slot(self, client: Client) -> Iterator[None]:
        self._check_slot(client)
        self._working[client.name] += 1
        self.state.full = self._working.total() >= self.limits.requests
        try:
            yield
        finally:
            self.state.full = False
            self._working[client.name] -= 1
            if not self._working[client.name]:
                del self._working[client.name]

    async def _read(self, exchange: Exchange, receive: Receive) -> bytes:
        max_bytes = self._max_bytes(exchange.headers)
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while exchange.unread:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    parts.append(part)
                    exchange.unread = message.get("more_body", False)
                    exchange.received += len(part)
                    self.metrics.held_bytes += len(part)
                    if exchange.received > max_bytes:
                        raise _too_large(max_bytes)
                    if self.metrics.held_bytes > self.limits.all_bodies:
                        self.metrics.refused.labels("bytes").inc()
                        raise Problem(503, "the server holds many bodies", 1)
        except TimeoutError:
            raise Problem(408, f"no body within {self.limits.body_seconds:g} s") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _max_bytes(self, headers: Mapping[bytes, bytes]) -> int:
        """Bytes that may come, by what they say they are: all but pictures is parsed, and then
        takes many times as much."""
        is_form = media_type(headers) == "multipart/form-data"
        max_bytes = self.limits.body if is_form else min(self.limits.json, self.limits.body)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > max_bytes:
            raise _too_large(max_bytes)
        return max_bytes

    async def _answer(
        self, scope: Scope, exchange: Exchange, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Let the application answer, until its time is over or its client is gone."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        has_left, watcher = False, None

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        async def watch() -> None:
            nonlocal has_left
            while (await receive())["type"] != "http.disconnect":
                pass
            if not exchange.done:
                has_left = True
                task.cancel()

        def begin_to_watch() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        timer = loop.call_later(_WATCH, begin_to_watch)
        deadline = asyncio.timeout(self.limits.seconds)
        try:
            async with deadline:
                await self.app(scope, replay, send)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise Problem(504, f"no answer within {self.limits.seconds:g} s") from None
        except asyncio.CancelledError:
            if not has_left:
                raise
            task.uncancel()
            raise ClientGoneError from None
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()


@dataclass(eq=False)
class Direct(HttpMiddleware):
    """Takes calls that have one path and a body of JSON straight to their route, which ``routes``
    has by path: the framework's way there takes longer than a short text does in the model."""

    routes: Mapping[str, Any]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.routes.get(path_of(scope)) if scope["method"] == "POST" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        body = (await receive())["body"]
        response = await route.answer(body, media_type(exchange_of(scope).headers))
        await response(scope, receive, send)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body has more than {max_bytes} bytes")
