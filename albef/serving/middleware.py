"""What every request passes before the application, and every answer after it: a class a duty.

From the outermost: :class:`RequestLog`, :class:`ResponseHeaders`, :class:`Refusals`,
:class:`Tokens` or :class:`Hosts`, :class:`Slots`, :class:`Bodies`, :class:`Answers`. One that
refuses raises a :class:`~albef.serving.errors.Problem`.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics

log = logging.getLogger("albef.requests")
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of the machine itself."""
PROBES = frozenset({"/healthz", "/readyz"})
_QUIET = PROBES | {"/metrics"}  # asked every few seconds, for ever: no line where it went well
_GUARDED = ("/v1/", "/metrics")  # what is behind a token
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINGER = 2.0  # seconds in which what is refused is still read, so that the client sees why
_LEFT = 499  # what the log says of a client that did not wait
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
}


@dataclass
class State:
    """Whether the server takes requests."""

    ready: bool = False
    """Whether the models can be asked."""
    leaving: bool = False
    """Whether it was told to stop."""


class ClientGoneError(Exception):
    """The client left before its answer was ready."""


@dataclass(eq=False)
class HttpMiddleware:
    """What they have in common: they see requests alone, no start and stop of the server.

    Attributes:
        app: what is behind it.
        spared: paths that pass untouched.
    """

    app: ASGIApp
    spared: ClassVar[frozenset[str]] = frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do its duty, or pass on."""
        spared = scope["type"] != "http" or scope["path"] in self.spared
        await (self.app if spared else self._handle)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class RequestLog(HttpMiddleware):
    """Gives a request its id (``request_id`` of the scope), a line of the log, and is counted."""

    metrics: Metrics

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        wished = Headers(scope=scope).get("x-request-id", "")
        scope["request_id"] = wished if _REQUEST_ID.fullmatch(wished) else uuid.uuid4().hex
        start = time.perf_counter()
        status = received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = scope["request_id"]
            sent += len(message.get("body", b""))
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, counted_receive, counted_send)
        except ClientGoneError:
            status = _LEFT
        except asyncio.CancelledError:
            status = status or 503
            raise
        finally:
            self.metrics.open.dec()
            self._write(scope, status, time.perf_counter() - start, received, sent)

    def _write(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        """One line, with nothing of what was sent or answered."""
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, f"{status}").inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route in _QUIET and status < 400:
            return
        fields = {
            "id": scope["request_id"],
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
            "received": received,
            "sent": sent,
            "client": (scope.get("client") or ("",))[0],
        }
        log.info("request", extra={"fields": fields})


@dataclass(eq=False)
class ResponseHeaders(HttpMiddleware):
    """Headers that keep browsers safe, and the end of connections to a server that is leaving."""

    state: State

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self.state.leaving:
                    headers["connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_with_headers)


@dataclass(eq=False)
class Refusals(HttpMiddleware):
    """Answers with the problem that something behind it raised, or with 500.

    A client that is cut off while it sends never sees the answer, so up to ``linger`` bytes of what
    it sends are read on for a moment; then the connection is closed.
    """

    linger: int

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        unread = "content-length" in headers or "transfer-encoding" in headers
        started = False

        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and unread:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            await self.app(scope, watched_receive, watched_send)
            return
        except ClientGoneError:
            raise
        except Problem as error:
            problem = error
        except Exception:
            log.exception("request %s failed", scope["request_id"])
            text = f"the server failed; request {scope['request_id']}"
            problem = Problem(500, "internal", text)
        if started:
            return
        most = 0 if problem.status == 408 else self.linger
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while unread and most > 0:
                    most -= len((await watched_receive()).get("body", b""))
        await problem.response()(scope, receive, watched_send)


@dataclass(eq=False)
class Tokens(HttpMiddleware):
    """Whoever asks a model needs one of the clients' tokens, or is refused with 401."""

    tokens: Sequence[str]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(_GUARDED):
            kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            sent = token.strip().encode() if kind.lower() == "bearer" else b""
            # Every token is compared, each in constant time: none is told by how long it took.
            if not sum([hmac.compare_digest(sent, known.encode()) for known in self.tokens]):
                raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
        await self.app(scope, receive, send)


@dataclass(eq=False)
class Hosts(HttpMiddleware):
    """Without tokens only this machine asks (else 421), under ``names`` too, and no browser on it
    lends its place to a page of another site (else 403)."""

    spared = PROBES
    names: Sequence[str]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = _host_name(f"//{headers.get('host', '')}")
        if host not in (*LOCAL, *self.names):
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = headers.get("origin")
        if origin is not None and _host_name(origin) != host:
            raise Problem(403, "forbidden", "a page of another site asked")
        await self.app(scope, receive, send)


@dataclass(eq=False)
class Slots(HttpMiddleware):
    """Refuses with 503 what is more than so many requests at once."""

    spared = PROBES
    free: int
    metrics: Metrics

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.free:
            self.metrics.refused.labels("requests").inc()
            raise Problem(503, "unavailable", "the server works on as much as it can", 1)
        self.free -= 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.free += 1


@dataclass(eq=False)
class Bodies(HttpMiddleware):
    """Reads a body as a whole, so that its size (413), its time (408) and the bytes of all bodies
    at once (503) are bounded before anything looks into it."""

    spared = PROBES
    limits: Limits
    metrics: Metrics
    held: int = 0

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        is_json = headers.get("content-type", "").partition(";")[0].strip().endswith("json")
        most = min(self.limits.json, self.limits.body) if is_json else self.limits.body
        large = Problem(413, "too_large", f"the body has more than {most} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise large
        parts: list[Message] = []
        received = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while not parts or parts[-1].get("more_body", False):
                    part = await receive()
                    if part["type"] == "http.disconnect":
                        raise ClientGoneError
                    received += len(part.get("body", b""))
                    self._hold(len(part.get("body", b"")))
                    if received > most:
                        raise large
                    if self.held > self.limits.held:
                        self.metrics.refused.labels("bytes").inc()
                        raise Problem(503, "unavailable", "the server holds many bodies", 1)
                    parts.append(part)
        except BaseException as error:
            parts.clear()  # not to be kept by the error
            self._hold(-received)
            if isinstance(error, TimeoutError):
                text = f"no body within {self.limits.body_seconds:g} s"
                raise Problem(408, "slow_body", text) from None
            raise
        try:
            await self.app(scope, _replay(parts, receive), send)
        finally:
            self._hold(-received)

    def _hold(self, count: int) -> None:
        self.held += count
        self.metrics.held.set(self.held)


@dataclass(eq=False)
class Answers(HttpMiddleware):
    """Gives up an answer that takes too long (504), or that nobody waits for any more."""

    spared = PROBES
    seconds: float

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = [await receive()]
        while body[-1].get("more_body", False):
            body.append(await receive())

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answer = asyncio.ensure_future(self.app(scope, _replay(body, receive), send))
        leaving = asyncio.ensure_future(leave())
        try:
            done, _ = await asyncio.wait(
                {answer, leaving}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise Problem(504, "deadline", f"no answer within {self.seconds:g} s")
            if answer not in done:
                raise ClientGoneError
            answer.result()
        finally:
            for task in (answer, leaving):
                task.cancel()
            await asyncio.gather(answer, leaving, return_exceptions=True)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """``receive``, after what was received before."""

    async def replayed() -> Message:
        return messages.pop(0) if messages else await receive()

    return replayed


def _host_name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
