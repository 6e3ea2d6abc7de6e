"""What every request passes before the application, and every answer after it: a class a duty.

From the outermost: :class:`RequestLog`, :class:`Responses`, :class:`Tokens` or :class:`Hosts`,
:class:`Slots`, :class:`Bodies`. One that refuses raises a :class:`~albef.serving.errors.Problem`.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """What they have in common: they see requests alone, no start and stop of the server."""

    app: ASGIApp
    spared: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Paths that pass untouched, wherever the application is mounted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do its duty, or pass on."""
        spared = scope["type"] != "http" or _path(scope) in self.spared
        await (self.app if spared else self._handle)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class RequestLog(HttpMiddleware):
    """Gives a request its id (``request_id`` of the scope), a line of the log, and is counted."""

    metrics: Metrics

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        wished = Headers(scope=scope).get("x-request-id", "")
        name = wished if _REQUEST_ID.fullmatch(wished) else uuid.uuid4().hex
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # uvicorn leaves the body out of what a HEAD is answered.
        asked = "GET" if method == "HEAD" else scope["method"]
        scope = {**scope, "request_id": name, "method": asked}
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
                MutableHeaders(scope=message)["x-request-id"] = name
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
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.open.dec()
            self.metrics.requests.labels(route, method, f"{status}").inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if route not in _QUIET or status >= 400:  # nothing of what was sent or answered
                fields = {
                    "id": name,
                    "method": method,
                    "route": route,
                    "status": status,
                    "ms": round(1000 * seconds, 1),
                    "received": received,
                    "sent": sent,
                    "client": _client(scope),
                }
                log.info("request", extra={"fields": fields})


@dataclass(eq=False)
class Responses(HttpMiddleware):
    """Answers with the problem that something behind it raised, or with 500; gives every answer
    the headers that keep browsers safe, and ends connections to a server that is leaving.

    A client that is cut off while it sends never sees the answer, so up to ``linger`` bytes of what
    it sends are read on for a moment; then the connection is closed.
    """

    state: State
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
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if unread or self.state.leaving:
                    headers["connection"] = "close"
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
    """Whoever asks for what is not ``spared`` needs one of the clients' tokens (else 401)."""

    tokens: Sequence[str]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        sent = token.strip().encode() if kind.lower() == "bearer" else b""
        # Every token is compared, each in constant time: none is told by how long it took.
        if not sum([hmac.compare_digest(sent, known.encode()) for known in self.tokens]):
            raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
        await self.app(scope, receive, send)


@dataclass(eq=False)
class Hosts(HttpMiddleware):
    """Without tokens this machine asks, by its own names, and whoever knows one of ``names`` (else
    421), and no browser lends its place to a page of another site (else 403)."""

    names: Sequence[str]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = _host_name(f"//{headers.get('host', '')}")
        if host not in self.names and not (host in LOCAL and _is_loopback(_client(scope))):
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = headers.get("origin")
        if origin is not None and _host_name(origin) != host:
            raise Problem(403, "forbidden", "a page of another site asked")
        await self.app(scope, receive, send)


@dataclass(eq=False)
class Slots(HttpMiddleware):
    """Refuses with 503 what is more than so many requests at once."""

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
    at once (503) are bounded before anything looks into it; then gives up an answer that takes too
    long (504), or that nobody waits for any more."""

    limits: Limits
    metrics: Metrics
    held: int = 0

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[Message] = []
        received, most = 0, self._most(Headers(scope=scope))
        reading = asyncio.timeout(self.limits.body_seconds)
        try:
            async with reading:
                while not parts or parts[-1].get("more_body", False):
                    parts.append(await receive())
                    if parts[-1]["type"] == "http.disconnect":
                        raise ClientGoneError
                    size = len(parts[-1].get("body", b""))
                    received += size
                    self._hold(size)
                    if received > most:
                        raise _too_large(most)
                    if self.held > self.limits.held:
                        self.metrics.refused.labels("bytes").inc()
                        raise Problem(503, "unavailable", "the server holds many bodies", 1)
            await self._answer(scope, parts, receive, send)
        except TimeoutError:
            if not reading.expired():
                raise
            text = f"no body within {self.limits.body_seconds:g} s"
            raise Problem(408, "slow_body", text) from None
        finally:
            parts.clear()  # not to be kept by an error
            self._hold(-received)

    def _most(self, headers: Headers) -> int:
        """Bytes that may come, by what they say they are: all but pictures is parsed, and then
        takes many times as much."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_form = kind == "multipart/form-data"
        most = self.limits.body if is_form else min(self.limits.json, self.limits.body)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        return most

    async def _answer(
        self, scope: Scope, parts: list[Message], receive: Receive, send: Send
    ) -> None:
        async def replay() -> Message:
            return parts.pop(0) if parts else await receive()

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answer = asyncio.ensure_future(self.app(scope, replay, send))
        leaving = asyncio.ensure_future(leave())
        try:
            done, _ = await asyncio.wait(
                {answer, leaving},
                timeout=self.limits.seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                text = f"no answer within {self.limits.seconds:g} s"
                raise Problem(504, "deadline", text)
            if answer not in done:
                raise ClientGoneError
            answer.result()
        finally:
            for task in (answer, leaving):
                task.cancel()
            await asyncio.gather(answer, leaving, return_exceptions=True)

    def _hold(self, count: int) -> None:
        self.held += count
        self.metrics.held.set(self.held)


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"the body has more than {most} bytes")


def _path(scope: Scope) -> str:
    """A path as routes have it: without what the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def _client(scope: Scope) -> str:
    return (scope.get("client") or ("",))[0]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _host_name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
