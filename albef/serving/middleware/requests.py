"""The outermost: ids, the log, safe headers, and what is answered where something failed."""

import asyncio
import contextlib
import logging
import os
import re
import time
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import (
    METRICS,
    PROBES,
    Client,
    ClientGoneError,
    Exchange,
    HttpMiddleware,
    State,
)

log = logging.getLogger("albef.requests")
REST = 0.25
"""Seconds in which no more is read of a connection that was refused for load."""
_QUIET = PROBES | {METRICS}  # asked every few seconds, for ever: no line where it went well
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C's traceparent
_LINGER = 2.0  # seconds in which what is refused is still read, so that the client sees why
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
        requested = headers.get(b"x-request-id", b"")
        name = requested if _REQUEST_ID.fullmatch(requested) else os.urandom(16).hex().encode()
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
                sent_headers = message["headers"]
                all_headers = [*sent_headers, *_SAFE, (b"x-request-id", name)]
                if not any(each[0] == b"cache-control" for each in sent_headers):
                    all_headers.append(_NO_STORE)
                if exchange.unread or self.state.leaving:
                    all_headers.append((b"connection", b"close"))
                message["headers"] = all_headers
            else:
                exchange.sent += len(message.get("body", b""))
                exchange.done = not message.get("more_body", False)
            await send(message)

        busy = False
        self.metrics.open_requests += 1
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
            self.metrics.open_requests -= 1
            self.metrics.count_answer(route, method, exchange.status, seconds)
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
            problem = Problem(500, f"the server failed; request {exchange.id}")
        if exchange.status:
            return False
        budget = 0 if problem.status == 408 else self.linger
        with contextlib.suppress(TimeoutError):
            if exchange.unread and budget:
                async with asyncio.timeout(_LINGER):
                    while exchange.unread and budget > 0:
                        message = await receive()
                        budget -= len(message.get("body", b""))
                        exchange.unread = message.get("more_body", False)
        await problem.response()(scope, receive, answer)
        if busy := problem.status in (429, 503):
            scope.get("rest", lambda seconds: None)(REST)
        return busy
