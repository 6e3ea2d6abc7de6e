"""Who may ask: clients with tokens, or without any this machine."""

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.middleware.exchange import (
    CLIENT,
    METRICS,
    SCOPES,
    Client,
    HttpMiddleware,
    exchange_of,
    path_of,
)

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of the machine itself."""
SHORTEST = 16
"""Characters of a token, at least."""


class Tokens(HttpMiddleware):
    """Whoever asks for what is not ``spared`` needs one of the clients' tokens (else 401), which
    allows what is asked (else 403)."""

    def __init__(
        self, app: ASGIApp, tokens: Sequence[str], *, spared: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(app, spared=spared)
        self._clients = [parse_token(token, i) for i, token in enumerate(tokens)]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, token = exchange_of(scope).headers.get(b"authorization", b"").partition(b" ")
        sent = token.strip() if kind.lower() == b"bearer" else b""
        # Every token is compared, each in constant time: none is told by how long it took.
        known = [each for each in self._clients if hmac.compare_digest(sent, each.token)]
        if not known:
            raise Problem(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
        if (needed := _needed(scope)) not in known[0].scopes:
            raise Problem(403, "forbidden", f"this token does not allow it: it is no {needed} one")
        exchange_of(scope).client = known[0]
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
    path, method = path_of(scope), scope["method"]
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
        exchange = exchange_of(scope)
        host = _host_name(f"//{exchange.headers.get(b'host', b'').decode('latin-1')}")
        if host not in self.names and not (host in LOCAL and _is_loopback(exchange.client.name)):
            raise Problem(421, "misdirected", "without tokens the server answers to localhost only")
        origin = exchange.headers.get(b"origin", b"").decode("latin-1")
        if origin and _host_name(origin) != host and origin not in self.origins:
            raise Problem(403, "forbidden", "a page of another site asked")
        CLIENT.set(exchange.client.name)
        await self.app(scope, receive, send)


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
