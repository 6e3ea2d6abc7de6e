"""What every request passes on its way in and out: limits, tokens, deadlines, logs and headers.

The body is read here, as a whole, so that its size and time are bounded before anything else sees
it, and so that it is noticed when the client leaves while its answer is computed.
"""

import asyncio
import hmac
import json
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
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of the machine itself."""
_PROBES = ("/healthz", "/readyz", "/metrics")
_GUARDED = ("/v1/", "/metrics")  # what is behind a token
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINGER = 2.0  # seconds in which what is too large is still read, so that the client sees why
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
}


@dataclass
class State:
    """Whether the server takes requests."""

    ready: bool = False
    """Whether the models can be asked."""
    leaving: bool = False
    """Whether it was told to stop."""


@dataclass
class _Told:
    """What the log says of a request."""

    id: str
    start: float = field(default_factory=time.perf_counter)
    status: int = 0
    unread: bool = False
    received: int = 0
    sent: int = 0


class Gate:
    """The outermost application.

    Args:
        app: what answers.
        limits: of the server.
        metrics: of the server.
        state: of the server.
        tokens: of clients; without any, only those on this machine are answered.
        hosts: names beside :data:`LOCAL` under which the server may be asked without a token.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        state: State,
        tokens: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self._app, self._limits, self._metrics, self._state = app, limits, metrics, state
        self._tokens = [token.encode() for token in tokens]
        self._hosts = {*LOCAL, *hosts}
        self._working = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        told = _Told(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        told.unread = "content-length" in headers or "transfer-encoding" in headers
        answer = _Answer(scope, send, told, self._state)
        self._working += 1
        self._metrics.open.set(self._working)
        try:
            await self._pass(scope, headers, receive, answer, told)
        except Problem as problem:
            await answer.say(problem)
        except _GoneError:
            told.status = _LEFT
        except asyncio.CancelledError:
            told.status = told.status or 503
            raise
        except Exception:
            log.exception("request %s failed", told.id)
            await answer.say(Problem(500, "internal", f"the server failed; request {told.id}"))
        finally:
            self._working -= 1
            self._metrics.open.set(self._working)
            self._log(scope, told)

    async def _pass(
        self, scope: Scope, headers: Headers, receive: Receive, answer: "_Answer", told: _Told
    ) -> None:
        if scope["path"] in _PROBES[:2]:  # of a full server too
            await self._app(scope, receive, answer)
            return
        try:
            self._admit(scope, headers)
            if self._working > self._limits.requests:
                self._metrics.refused.labels("requests").inc()
                raise Problem(503, "unavailable", "the server works on as much as it can", 1)
        except Problem:
            if told.unread:
                told.unread = not await _discard(receive, self._limits.json)
            raise
        try:
            body = await self._body(headers, receive, told)
            async with asyncio.timeout(self._limits.seconds):
                await self._while_there(scope, body, receive, answer)
        except TimeoutError:
            raise Problem(504, "deadline", f"no answer within {self._limits.seconds:g} s") from None
        finally:
            self._hold(-told.received)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """See that the client may ask at all.

        Raises:
            Problem: 401, 403 or 421.
        """
        if self._tokens:
            if scope["path"].startswith(_GUARDED):
                kind, _, token = headers.get("authorization", "").partition(" ")
                sent = token.strip().encode() if kind.lower() == "bearer" else b""
                # Every token is compared, each in constant time: none is told by how long it took.
                if not sum([hmac.compare_digest(sent, own) for own in self._tokens]):
                    raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
            return
        # Without tokens a browser on this machine must not lend its place to another site's page.
        host = _name(headers.get("host", ""))
        if host not in self._hosts:
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = headers.get("origin")
        if origin is not None and _name(urlsplit(origin).netloc) != host:
            raise Problem(403, "forbidden", "a page of another site asked")

    async def _body(self, headers: Headers, receive: Receive, told: _Told) -> list[bytes]:
        """The whole body, in the parts in which it came.

        Raises:
            Problem: 400, 408, 413, or 503 where too much is held already.
        """
        json_body = headers.get("content-type", "").partition(";")[0].strip().endswith("json")
        most = min(self._limits.json, self._limits.body) if json_body else self._limits.body
        large = Problem(413, "too_large", f"the body has more than {most} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            await _discard(receive, most)
            raise large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    more = message.get("more_body", False)
                    part = message.get("body", b"")
                    told.received += len(part)
                    self._hold(len(part))
                    if told.received > most:
                        parts.clear()
                        await _discard(receive, most)
                        raise large
                    if self._held > self._limits.held:
                        self._metrics.refused.labels("bytes").inc()
                        raise Problem(503, "unavailable", "the server holds many bodies", 1)
                    parts.append(part)
            told.unread = False
        except TimeoutError:
            raise Problem(
                408, "slow_body", f"no body within {self._limits.body_seconds:g} s"
            ) from None
        return parts

    async def _while_there(
        self, scope: Scope, body: list[bytes], receive: Receive, send: Send
    ) -> None:
        """Let the application answer; give up when the client leaves."""

        async def replay() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(0), "more_body": bool(body)}
            return await receive()

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answering = asyncio.ensure_future(self._app(scope, replay, send))
        leaving = asyncio.ensure_future(leave())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise _GoneError
            answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    def _hold(self, count: int) -> None:
        self._held += count
        self._metrics.held.set(self._held)

    def _log(self, scope: Scope, told: _Told) -> None:
        """One line, with nothing of what was sent or answered."""
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        seconds = time.perf_counter() - told.start
        self._metrics.requests.labels(route, method, f"{told.status}").inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if route in _PROBES and told.status < 400:
            return  # every few seconds, for ever
        log.info(
            "request",
            extra={
                "fields": {
                    "id": told.id,
                    "method": method,
                    "route": route,
                    "status": told.status,
                    "ms": round(1000 * seconds, 1),
                    "received": told.received,
                    "sent": told.sent,
                    "client": (scope.get("client") or ("",))[0],
                }
            },
        )


class _GoneError(Exception):
    """The client left."""


class _Answer:
    """The way out: headers that every answer has, and what the log says."""

    def __init__(self, scope: Scope, send: Send, told: _Told, state: State) -> None:
        self._scope, self._send, self._told, self._state = scope, send, told, state

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._told.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._told.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            if self._state.leaving or self._told.unread:
                headers["connection"] = "close"
        else:
            self._told.sent += len(message.get("body", b""))
        await self._send(message)

    async def say(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer was begun."""
        if not self._told.status:
            await problem.response()(self._scope, _nothing, self)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _discard(receive: Receive, most: int) -> bool:
    """Read on for a moment: a client that is cut off while it sends never sees the answer.

    Whether that was all.
    """
    try:
        async with asyncio.timeout(_LINGER):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


def _name(address: str) -> str:
    """The name in ``name:port``."""
    try:
        return (urlsplit(f"//{address}").hostname or "").lower()
    except ValueError:
        return ""


class JsonLines(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
