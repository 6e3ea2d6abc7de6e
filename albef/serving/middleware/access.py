"""Who may ask: clients with tokens, or without any this machine."""

import hmac
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from albef.serving.errors import Problem
from albef.serving.middleware.exchange import (
    METRICS,
    SCOPES,
    Client,
    HttpMiddleware,
    exchange_of,
    path_of,
)

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of the machine itself."""
TOKENS = "ALBEF_TOKENS"
"""Environment variable with the tokens of clients, separated by commas or spaces; that of the same
name and ``_FILE`` has the path of a file with more of them."""
SHORTEST = 16
"""Characters of a token, at least."""


@dataclass(eq=False)
class Tokens(HttpMiddleware):
    """Whoever asks for what is not ``spared`` needs one of the clients' tokens (else 401), which
    allows what is asked (else 403)."""

    tokens: InitVar[Sequence[str]]

    def __post_init__(self, tokens: Sequence[str]) -> None:
        self._clients = [parse_token(token, i) for i, token in enumerate(tokens)]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, token = exchange_of(scope).headers.get("authorization", "").partition(" ")
        sent = token.strip().encode("latin-1") if kind.lower() == "bearer" else b""
        # Every token is compared, each in constant time: none is told by how long it took.
        matches = [each for each in self._clients if hmac.compare_digest(sent, each.token)]
        if not matches:
            raise Problem(401, "send a token: Authorization: Bearer TOKEN")
        if (needed := _needed_scope(scope)) not in matches[0].scopes:
            raise Problem(403, f"this token does not allow it: it is no {needed} one")
        exchange_of(scope).client = matches[0]
        await self.app(scope, receive, send)


def read_tokens() -> list[str]:
    """The tokens of clients, from the environment and the file that it names.

    Raises:
        ValueError: one is too short to be a secret, or what follows it means nothing.
        OSError: the file cannot be read.
    """
    text = os.environ.get(TOKENS, "")
    if path := os.environ.get(f"{TOKENS}_FILE"):
        text += f" {Path(path).read_text()}"
    tokens = text.replace(",", " ").split()
    for token in tokens:
        parse_token(token)
    return tokens


def parse_token(text: str, number: int = 0) -> Client:
    """The client of ``TOKEN[:SCOPES[:REQUESTS]]``, scopes joined by ``+``; without, it may do all.

    Raises:
        ValueError: it is too short to be a secret, or what follows it means nothing.
    """
    token, _, rest = text.partition(":")
    scopes, _, max_requests = rest.partition(":")
    allowed = frozenset(scopes.split("+") if scopes else SCOPES)
    if len(token) < SHORTEST:
        raise ValueError(f"{TOKENS}: a token has at least {SHORTEST} characters")
    if not allowed <= set(SCOPES) or (max_requests and not max_requests.isdecimal()):
        raise ValueError(
            f"{TOKENS}: after a token stand {' or '.join(SCOPES)}, joined by +, and how many of "
            "its requests are worked on at once, as in TOKEN:read+metrics:8"
        )
    return Client(f"token {number}", token.encode(), allowed, int(max_requests or 0))


def _needed_scope(scope: Scope) -> str:
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
        host = _host_name(f"//{exchange.headers.get('host', '')}")
        if host not in self.names and not (host in LOCAL and _is_loopback(exchange.client.name)):
            raise Problem(421, "without tokens the server answers to localhost only")
        origin = exchange.headers.get("origin", "")
        if origin and _host_name(origin) != host and origin not in self.origins:
            raise Problem(403, "a page of another site asked")
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
