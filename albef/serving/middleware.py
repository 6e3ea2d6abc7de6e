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


class HttpMiddleware:
    """What they have in common: :meth:`handle` sees requests alone, no start and stop.

    Args:
        app: what is behind it.
    """

    spared: ClassVar[frozenset[str]] = frozenset()
    """Paths that pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do its duty, or pass on."""
        spared = scope["type"] != "http" or scope["path"] in self.spared
        await (self.app if spared else self.handle)(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do its duty for one request."""
        raise NotImplementedError


class RequestLog(HttpMiddleware):
    """Gives a request its id, a line of the log and a place in the metrics."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        super().__init__(app)
        self._metrics = metrics

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what goes in and out; the id stands in ``scope["request_id"]``."""
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

        self._metrics.open.inc()
        try:
            await self.app(scope, counted_receive, counted_send)
        except ClientGoneError:
            status = _LEFT
        except asyncio.CancelledError:
            status = status or 503
            raise
        finally:
            self._metrics.open.dec()
            self._write(scope, status, time.perf_counter() - start, received, sent)

    def _write(self, scope: Scope, status: int, seconds: float, received: int, sent: int) -> None:
        """One line, with nothing of what was sent or answered."""
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, f"{status}").inc()
        self._metrics.seconds.labels(route).observe(seconds)
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


class ResponseHeaders(HttpMiddleware):
    """Headers that keep browsers safe, and the end of connections to a server that is leaving."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        super().__init__(app)
        self._state = state

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers that the answer lacks."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._state.leaving:
                    headers["connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_with_headers)


class Refusals(HttpMiddleware):
    """Answers with the problem that something behind it raised, or with 500.

    A client that is cut off while it sends never sees the answer, so what it sends is read on for
    a moment; then the connection is closed.

    Args:
        app: what is behind it.
        linger: most bytes that are read on.
    """

    def __init__(self, app: ASGIApp, linger: int) -> None:
        super().__init__(app)
        self._linger = linger

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and see what comes of it."""
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
        if problem.status != 408:
            most = self._linger
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while unread and most > 0:
                        most -= len((await watched_receive()).get("body", b""))
        await problem.response()(scope, receive, watched_send)


class Tokens(HttpMiddleware):
    """Whoever asks a model needs one of the clients' tokens."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        super().__init__(app)
        self._tokens = [token.encode() for token in tokens]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 401, or pass on."""
        if scope["path"].startswith(_GUARDED):
            kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            sent = token.strip().encode() if kind.lower() == "bearer" else b""
            # Every token is compared, each in constant time: none is told by how long it took.
            if not sum([hmac.compare_digest(sent, known) for known in self._tokens]):
                raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
        await self.app(scope, receive, send)


class Hosts(HttpMiddleware):
    """Without tokens only this machine asks, and no browser on it lends its place to a page of
    another site.

    Args:
        app: what is behind it.
        names: of the server, beside :data:`LOCAL`.
    """

    spared = PROBES

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        super().__init__(app)
        self._names = {*LOCAL, *names}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403 or 421, or pass on."""
        headers = Headers(scope=scope)
        host = _host_name(f"//{headers.get('host', '')}")
        if host not in self._names:
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = headers.get("origin")
        if origin is not None and _host_name(origin) != host:
            raise Problem(403, "forbidden", "a page of another site asked")
        await self.app(scope, receive, send)


class Slots(HttpMiddleware):
    """Bounds the requests that are worked on at once."""

    spared = PROBES

    def __init__(self, app: ASGIApp, requests: int, metrics: Metrics) -> None:
        super().__init__(app)
        self._free, self._metrics = requests, metrics

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 503, or pass on."""
        if not self._free:
            self._metrics.refused.labels("requests").inc()
            raise Problem(503, "unavailable", "the server works on as much as it can", 1)
        self._free -= 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._free += 1


class Bodies(HttpMiddleware):
    """Reads a body as a whole, so that its size and time are bounded before it is looked into."""

    spared = PROBES

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        super().__init__(app)
        self._limits, self._metrics, self._held = limits, metrics, 0

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 408, 413 or, where too much is held already, 503; or pass on."""
        headers = Headers(scope=scope)
        is_json = headers.get("content-type", "").partition(";")[0].strip().endswith("json")
        most = min(self._limits.json, self._limits.body) if is_json else self._limits.body
        large = Problem(413, "too_large", f"the body has more than {most} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise large
        parts = await self._read(receive, most, large)
        held = sum(len(part.get("body", b"")) for part in parts)
        try:
            await self.app(scope, _replay(parts, receive), send)
        finally:
            self._hold(-held)

    async def _read(self, receive: Receive, most: int, large: Problem) -> list[Message]:
        """The body in the parts in which it came; it is held until the answer is given."""
        parts: list[Message] = []
        received = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while not parts or parts[-1].get("more_body", False):
                    part = await receive()
                    if part["type"] == "http.disconnect":
                        raise ClientGoneError
                    size = len(part.get("body", b""))
                    received += size
                    self._hold(size)
                    if received > most:
                        raise large
                    if self._held > self._limits.held:
                        self._metrics.refused.labels("bytes").inc()
                        raise Problem(503, "unavailable", "the server holds many bodies", 1)
                    parts.append(part)
            return parts
        except BaseException as error:
            parts.clear()  # not to be kept by the error
            self._hold(-received)
            if isinstance(error, TimeoutError):
                seconds = self._limits.body_seconds
                raise Problem(408, "slow_body", f"no body within {seconds:g} s") from None
            raise

    def _hold(self, count: int) -> None:
        self._held += count
        self._metrics.held.set(self._held)


class Answers(HttpMiddleware):
    """Gives up an answer that takes too long, or that nobody waits for any more."""

    spared = PROBES

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        super().__init__(app)
        self._seconds = seconds

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 504 once the time is over."""
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
                {answer, leaving}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise Problem(504, "deadline", f"no answer within {self._seconds:g} s")
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
