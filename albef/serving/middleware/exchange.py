"""A request and its answer as the middlewares know them, and what these have in common."""

from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
SCOPES = ("read", "write", "metrics")
"""What a token may allow: calls and searches, changes of indexes, the server's numbers."""


@dataclass
class State:
    """Whether the server takes requests."""

    ready: bool = False
    """Whether the models can be asked."""
    leaving: bool = False
    """Whether it was told to stop."""


class ClientGoneError(Exception):
    """The client left before its answer was ready."""


class Client(NamedTuple):
    """Who asks.

    Attributes:
        name: a token's number, or an address.
        token: the secret.
        scopes: what it may do.
        max_requests: requests that are worked on at once; 0 sets no bound of its own.
    """

    name: str
    token: bytes = b""
    scopes: frozenset[str] = frozenset(SCOPES)
    max_requests: int = 0


@dataclass(slots=True)
class Exchange:
    """A request and its answer, as the middlewares know them (``albef`` of the scope)."""

    id: str
    headers: Headers
    address: str
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
        spared = scope["type"] != "http" or path_of(scope) in self.spared
        await (self.app if spared else self._handle)(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of a request."""
    exchange: Exchange = scope["albef"]
    return exchange


def path_of(scope: Scope) -> str:
    """A path as routes have it: without what the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))
