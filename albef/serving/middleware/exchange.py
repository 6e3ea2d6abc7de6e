"""A request and its answer as middlewares see them, and the base class of middlewares."""

import time
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from albef.serving.errors import ApiError

PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
SCOPES = ("read", "write", "metrics")
"""Scopes of a token: ``read`` for calls and searches, ``write`` for changes of indexes, ``metrics``
for the server's metrics."""


@dataclass
class State:
    """Readiness and routes of a server."""

    ready: bool = False  # the models can answer
    stopping: bool = False  # the server has received a stop signal
    log: TextIO | None = None  # gets a line for each request
    # They name the route of a request that is refused before routing.
    routes: list[BaseRoute] = field(default_factory=list)


class ClientGoneError(Exception):
    """Error for a client that left before its answer was ready."""


class Rate:
    """Limit of units per second, with a reserve of one second.

    A request is admitted while the reserve lasts. If it takes more than is left, the next one has
    to wait.
    """

    def __init__(self, per_second: int, unit: str) -> None:
        self._limit, self._unit = per_second, unit
        self._left, self._time = float(per_second), time.monotonic()

    def take(self, count: int = 1) -> None:
        """Take units; raise ApiError 429 if the reserve is used up."""
        now = time.monotonic()
        self._left = min(self._limit, self._left + (now - self._time) * self._limit)
        self._time = now
        if self._left <= 0:
            text = f"the token allows {self._limit} {self._unit} per second; retry later"
            raise ApiError(429, text, -self._left / self._limit, code="rate_limit")
        self._left -= count


class Client(NamedTuple):
    """Sender of a request."""

    name: str  # of the token, or the address
    token: bytes = b""
    scopes: frozenset[str] = frozenset(SCOPES)
    max_requests: int = 0  # concurrent requests; 0 sets no limit for this client
    request_rate: Rate | None = None
    text_rate: Rate | None = None


SERVER = Client("")
"""The server itself, for its own work."""
CLIENT: ContextVar[Client] = ContextVar("client", default=SERVER)
"""The client of the current request."""


def take_texts(count: int) -> None:
    """Count texts against the client's limit; raise ApiError 429 above it."""
    if rate := CLIENT.get().text_rate:
        rate.take(count)


@dataclass(slots=True)
class Exchange:
    """A request and its answer as middlewares see them (``albef`` in the scope)."""

    id: str
    headers: dict[str, str]  # the first of each name
    address: str
    client: Client
    received: int = 0
    held: int = 0  # bytes of its body that count against its client, announced ones included
    sent: int = 0
    status: int = 0
    done: bool = False  # the whole answer was sent


@dataclass(eq=False)
class HttpMiddleware:
    """Base class of middlewares. They handle only requests, not the server's start and stop."""

    app: ASGIApp
    exempt: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Paths that pass unchanged, relative to the application's mount point."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle a request, or pass it on unchanged."""
        exempt = scope["type"] != "http" or path_of(scope) in self.exempt
        return (self.app if exempt else self._handle)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of a request."""
    exchange: Exchange = scope["albef"]
    return exchange


def path_of(scope: Scope) -> str:
    """Return the path of a request without the application's mount point, as routes define it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))
