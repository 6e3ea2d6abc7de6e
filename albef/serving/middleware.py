"""What every request passes before the application, and every answer after it.

From the outermost: :class:`Requests`, :class:`Tokens` or :class:`Hosts`, :class:`Admission`,
:class:`Direct`. One that refuses raises a :class:`~albef.serving.errors.Problem`.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics

log = logging.getLogger("albef.requests")
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of the machine itself."""
PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
SCOPES = ("read", "write", "metrics")
"""What a token may allow: calls and searches, changes of indexes, the server's numbers."""
SHORTEST = 16
"""Characters of a token, at least."""
CLIENT: ContextVar[str] = ContextVar("client", default="")
"""Who asks, while a request is worked on: a token's number, or an address."""
REST = 0.25
"""Seconds in which no more is read of a connection that was refused for load."""
_QUIET = PROBES | {METRICS}  # asked every few seconds, for ever: no line where it went well
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C's traceparent
_LINGER = 2.0  # seconds in which what is refused is still read, so that the client sees why
_WATCH = 0.02  # seconds after which it is watched whether the client still waits
_LEFT = 499  # what the log says of a client that did not wait
_NO_STORE = (b"cache-control", b"no-store")
_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
]


@dataclass
class State:
    """Whether the server takes requests."""

    ready: bool = False
    """Whether the models can be asked."""
    leaving: bool = False
    """Whether it was told to stop."""
    full: bool = False
    """Whether all places are taken."""
    count_refusal: Callable[[], None] = lambda: None
    """Asked by who refuses for that."""


def full() -> Problem:
    """What is answered where all places are taken."""
    return Problem(503, "unavailable", "the server works on as much as it can", 1)


class ClientGoneError(Exception):
    """The client left before its answer was ready."""


class Client(NamedTuple):
    """Who asks.

    Attributes:
        name: a token's number, or an address.
        token: the secret.
        scopes: what it may do.
        most: requests that are worked on at once; 0 sets no bound of its own.
    """

    name: str
    token: bytes = b""
    scopes: frozenset[str] = frozenset(SCOPES)
    most: int = 0


@dataclass(slots=True)
class Exchange:
    """A request and its answer, as the middlewares know them (``albef`` of the scope)."""

    id: str
    headers: Mapping[bytes, bytes]
    unread: bool
    """Whether more of the body is to come."""
    client: Client
    received: int = 0
    sent: int = 0
    status: int = 0
    done: bool = False
    """Whether the answer was sent as a whole."""


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
class Requests(HttpMiddleware):
    """Gives a request its id and a line of the log, counts it, answers with the problem that
    something behind it raised, or with 500; gives every answer the headers that keep browsers safe,
    and ends connections to a server that is leaving.

    A client that is cut off while it sends never sees the answer, so up to ``linger`` bytes of what
    it sends are read on for a moment; then the connection is closed. Of a connection that was
    refused for load (``rest`` of the scope) nothing more is read for a moment, so that whoever asks
    again at once costs next to nothing; these have no line of the log, but are counted.
    """

    metrics: Metrics
    state: State
    linger: int

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        headers = dict(scope["headers"])
        wished = headers.get(b"x-request-id", b"")
        name = wished if _REQUEST_ID.fullmatch(wished) else os.urandom(16).hex().encode()
        unread = b"content-length" in headers or b"transfer-encoding" in headers
        address = (scope.get("client") or ("",))[0]
        exchange = Exchange(name.decode(), headers, unread, Client(address))
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if method == "HEAD":  # uvicorn leaves the body out, by the scope that is its own
            scope = {**scope, "method": "GET"}
        scope["albef"] = exchange

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                given = message["headers"]
                more = [*given, *_SAFE, (b"x-request-id", name)]
                if not any(each[0] == b"cache-control" for each in given):
                    more.append(_NO_STORE)
                if exchange.unread or self.state.leaving:
                    more.append((b"connection", b"close"))
                message["headers"] = more
            else:
                exchange.sent += len(message.get("body", b""))
                exchange.done = not message.get("more_body", False)
            await send(message)

        busy = False
        self.metrics.working += 1
        try:
            busy = await self._answer(scope, receive, answer, exchange)
        except ClientGoneError:
            exchange.status = _LEFT
        except asyncio.CancelledError:
            exchange.status = exchange.status or 503
            raise
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", None) or "other"
            self.metrics.working -= 1
            self.metrics.answered(route, method, exchange.status, seconds)
            if not busy and (route not in _QUIET or exchange.status >= 400):
                trace = _TRACE.fullmatch(headers.get(b"traceparent", b""))
                fields = {  # nothing of what was sent or answered
                    "id": exchange.id,
                    **({"trace": trace[1].decode()} if trace else {}),
                    "method": method,
                    "route": route,
                    "status": exchange.status,
                    "ms": round(1000 * seconds, 1),
                    "received": exchange.received,
                    "sent": exchange.sent,
                    "client": address,
                }
                log.info("request", extra={"fields": fields})

    async def _answer(
        self, scope: Scope, receive: Receive, answer: Send, exchange: Exchange
    ) -> bool:
        """Let the application answer, or say what is wrong; whether it was refused for load."""
        try:
            await self.app(scope, receive, answer)
            return False
        except ClientGoneError:
            raise
        except Problem as error:
            problem = error
        except Exception:
            log.exception("request %s failed", exchange.id)
            problem = Problem(500, "internal", f"the server failed; request {exchange.id}")
        if exchange.status:
            return False
        most = 0 if problem.status == 408 else self.linger
        with contextlib.suppress(TimeoutError):
            if exchange.unread and most:
                async with asyncio.timeout(_LINGER):
                    while exchange.unread and most > 0:
                        message = await receive()
                        most -= len(message.get("body", b""))
                        exchange.unread = message.get("more_body", False)
        await problem.response()(scope, receive, answer)
        if busy := problem.status in (429, 503):
            scope.get("rest", lambda seconds: None)(REST)
        return busy


class Tokens(HttpMiddleware):
    """Whoever asks for what is not ``spared`` needs one of the clients' tokens (else 401), which
    allows what is asked (else 403)."""

    def __init__(
        self, app: ASGIApp, tokens: Sequence[str], *, spared: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(app, spared=spared)
        self._clients = [parse_token(token, i) for i, token in enumerate(tokens)]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, token = _exchange(scope).headers.get(b"authorization", b"").partition(b" ")
        sent = token.strip() if kind.lower() == b"bearer" else b""
        # Every token is compared, each in constant time: none is told by how long it took.
        known = [each for each in self._clients if hmac.compare_digest(sent, each.token)]
        if not known:
            raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
        if (needed := _needed(scope)) not in known[0].scopes:
            raise Problem(403, "forbidden", f"this token does not allow it: it is no {needed} one")
        _exchange(scope).client = known[0]
        CLIENT.set(known[0].name)
        await self.app(scope, receive, send)


def parse_token(text: str, number: int = 0) -> Client:
    """The client of ``TOKEN[:SCOPES[:REQUESTS]]``, scopes joined by ``+``; without, it may do all.

    Raises:
        ValueError: it is too short to be a secret, or what follows it means nothing.
    """
    token, _, rest = text.partition(":")
    scopes, _, most = rest.partition(":")
    allowed = frozenset(scopes.split("+") if scopes else SCOPES)
    if len(token) < SHORTEST:
        raise ValueError(f"a token has at least {SHORTEST} characters")
    if not allowed <= set(SCOPES) or (most and not most.isdecimal()):
        raise ValueError(
            f"after a token stand {' or '.join(SCOPES)}, joined by +, and how many of its requests "
            "are worked on at once, as in TOKEN:read+metrics:8"
        )
    return Client(f"token {number}", token.encode(), allowed, int(most or 0))


def _needed(scope: Scope) -> str:
    """The scope that a token must have."""
    path, method = _path(scope), scope["method"]
    if path == METRICS:
        return "metrics"
    changes = method in ("PUT", "DELETE") or (method == "POST" and path.endswith("/images"))
    return "write" if changes and path.startswith("/v1/indexes") else "read"


@dataclass(eq=False)
class Hosts(HttpMiddleware):
    """Without tokens this machine asks, by its own names, and whoever knows one of ``names`` (else
    421), and no browser lends its place to a page of another site (else 403) but of ``origins``."""

    names: Sequence[str]
    origins: Sequence[str] = ()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _exchange(scope)
        host = _host_name(f"//{exchange.headers.get(b'host', b'').decode('latin-1')}")
        if host not in self.names and not (host in LOCAL and _is_loopback(exchange.client.name)):
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = exchange.headers.get(b"origin", b"").decode("latin-1")
        if origin and _host_name(origin) != host and origin not in self.origins:
            raise Problem(403, "forbidden", "a page of another site asked")
        CLIENT.set(exchange.client.name)
        await self.app(scope, receive, send)


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
        exchange = _exchange(scope)
        scope.get("trust", lambda: None)()
        self._check_place(exchange.client)
        try:
            body = await self._read(exchange, receive) if exchange.unread else b""
            with self._place(exchange.client):
                await self._answer(scope, exchange, body, receive, send)
        finally:
            self.metrics.holding -= exchange.received

    def _check_place(self, client: Client) -> None:
        if self._working.total() >= self.limits.requests:
            self.state.count_refusal()
            raise full()
        if client.most and self._working[client.name] >= client.most:
            self.metrics.refused.labels("client").inc()
            raise Problem(429, "busy", f"{client.most} requests with this token are worked on", 1)

    @contextlib.contextmanager
    def _place(self, client: Client) -> Iterator[None]:
        self._check_place(client)
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
        most = self._most(exchange.headers)
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
                    self.metrics.holding += len(part)
                    if exchange.received > most:
                        raise _too_large(most)
                    if self.metrics.holding > self.limits.held:
                        self.metrics.refused.labels("bytes").inc()
                        raise Problem(503, "unavailable", "the server holds many bodies", 1)
        except TimeoutError:
            text = f"no body within {self.limits.body_seconds:g} s"
            raise Problem(408, "slow_body", text) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _most(self, headers: Mapping[bytes, bytes]) -> int:
        """Bytes that may come, by what they say they are: all but pictures is parsed, and then
        takes many times as much."""
        is_form = media_type(headers) == b"multipart/form-data"
        most = self.limits.body if is_form else min(self.limits.json, self.limits.body)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > most:
            raise _too_large(most)
        return most

    async def _answer(
        self, scope: Scope, exchange: Exchange, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Let the application answer, until its time is over or its client is gone."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        to_come = [{"type": "http.request", "body": body, "more_body": False}]
        gone, watcher = False, None

        async def replay() -> Message:
            return to_come.pop() if to_come else await receive()

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            if not exchange.done:
                gone = True
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
            text = f"no answer within {self.limits.seconds:g} s"
            raise Problem(504, "deadline", text) from None
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise ClientGoneError from None
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()


class Direct(HttpMiddleware):
    """Takes calls that have one path and a body of JSON straight to their route: the framework's
    way there takes longer than a short text does in the model."""

    def __init__(self, app: ASGIApp, routes: Iterable[Any]) -> None:
        super().__init__(app)
        self._routes = {route.path: route for route in routes}

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(_path(scope)) if scope["method"] == "POST" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        body = (await receive())["body"]
        response = await route.answer(body, media_type(_exchange(scope).headers).decode("latin-1"))
        await response(scope, receive, send)


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """What a body says it is, without parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"the body has more than {most} bytes")


def _exchange(scope: Scope) -> Exchange:
    exchange: Exchange = scope["albef"]
    return exchange


def _path(scope: Scope) -> str:
    """A path as routes have it: without what the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


@lru_cache(1024)
def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@lru_cache(1024)
def _host_name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
