"""Outermost middleware: request ids, the log, security headers and error responses."""

import contextlib
import json
import logging
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import (
    METRICS,
    PROBES,
    Client,
    ClientGoneError,
    Exchange,
    HttpMiddleware,
    State,
    path_of,
)

log = logging.getLogger("albef")
_QUIET = PROBES | {METRICS}  # These are requested every few seconds, so only failures are logged.
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Format of the W3C header traceparent.
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REST_DIGITS = 8  # Digits of the bytes of an unread body after which a connection stays open.
_LEFT = 499  # Logged status of a client that left before the answer.
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


@dataclass(eq=False)
class Requests(HttpMiddleware):
    """Middleware that completes every request.

    It assigns the request id, counts the request and writes a log line. It returns the error
    raised by an inner layer, or 500. It adds security headers to every answer, and closes
    connections to a server that is stopping.
    """

    metrics: Metrics
    state: State

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in reversed(scope["headers"])
        }
        name = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(name):
            name = os.urandom(16).hex()
        is_chunked, length = "transfer-encoding" in headers, headers.get("content-length", "")
        address = (scope.get("client") or ("",))[0]
        exchange = Exchange(name, headers, address, Client(address))
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # The server leaves the body out, because its own scope keeps the method HEAD.
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        scope["albef"] = exchange

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                # A short rest of a body is read, so that the client can read the refusal.
                rests = exchange.status >= 400 or not exchange.received
                closes = rests and (is_chunked or len(length) > _REST_DIGITS)
                message["headers"] = self._finish(message["headers"], exchange, closes)
            else:
                exchange.sent += len(message.get("body", b""))
                exchange.done = not message.get("more_body", False)
            await send(message)

        self.metrics.open_requests += 1
        try:
            if is_chunked and length:  # Proxies do not agree on which one counts.
                raise ApiError(400, "send either Content-Length or Transfer-Encoding, not both")
            await self.app(scope, receive, answer)
        except ClientGoneError:
            exchange.status = _LEFT
        except Exception as error:
            if isinstance(error, MemoryError):
                error = ApiError(503, "the server is short of memory; retry after 5 s", 5)
            if not isinstance(error, ApiError):
                log.exception("request %s failed", name)
                error = ApiError(500, f"internal error; the log has details under request {name}")
            if not exchange.status:
                await error.response()(scope, receive, answer)
        finally:  # A cancelled request has no status.
            exchange.status = exchange.status or 503
            self.metrics.open_requests -= 1
            self._record(exchange, method, self._route(scope), time.perf_counter() - start)

    def _route(self, scope: Scope) -> str:
        """Return the path of the request's route, also if it was refused before routing."""
        if route := scope.get("route"):
            return str(route.path)
        path = path_of(scope)
        known = (each for each in self.state.routes if isinstance(each, Route))
        return next((each.path for each in known if each.path_regex.match(path)), "other")

    def _finish(
        self, headers: list[tuple[bytes, bytes]], exchange: Exchange, closes: bool
    ) -> list[tuple[bytes, bytes]]:
        every = [*headers, *_SAFE, (b"x-request-id", exchange.id.encode())]
        if not any(each[0] == b"cache-control" for each in headers):
            every.append(_NO_STORE)
        if closes or self.state.stopping:
            every.append((b"connection", b"close"))
        return every

    def _record(self, exchange: Exchange, method: str, route: str, seconds: float) -> None:
        """Count an answer, and log it without any content of the request or the answer."""
        status, client = f"{exchange.status}", exchange.client
        self.metrics.requests.labels(route, method, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if client.token:
            self.metrics.token_requests.labels(client.name, status).inc()
        if self.state.log is None or (route in _QUIET and exchange.status < 400):
            return
        trace = _TRACE.fullmatch(exchange.headers.get("traceparent", ""))
        line = log_line(
            time.time(),
            "info",
            "request",
            id=exchange.id,
            **({"trace": trace[1]} if trace else {}),
            method=method,
            route=route,
            status=exchange.status,
            ms=round(1000 * seconds, 1),
            received=exchange.received,
            sent=exchange.sent,
            client=exchange.address,
            **({"token": client.name} if client.token else {}),
        )
        # Python's logging takes several times as long as the rest of this.
        with contextlib.suppress(OSError):
            self.state.log.write(f"{line}\n")


def log_line(created: float, level: str, message: str, **fields: Any) -> str:
    """Return a line of the log, in JSON, with the Unix time of its event."""
    now = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    time_ = now.replace("+00:00", "Z")
    line = {"time": time_, "level": level, "message": message, **fields}
    try:
        return to_json(line).decode()
    except ValueError:  # An unpaired surrogate, as in a path that is not text.
        return json.dumps(line)
