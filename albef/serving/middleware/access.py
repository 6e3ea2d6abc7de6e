"""Access control: clients with tokens or, if there are none, clients on this machine."""

import hmac
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.middleware.exchange import (
    METRICS,
    SCOPES,
    Client,
    HttpMiddleware,
    exchange_of,
    path_of,
)

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Host names of the local machine."""
TOKENS = "ALBEF_TOKENS"
"""Environment variable with the tokens of clients, separated by commas or spaces. The variable with
the suffix ``_FILE`` has the path of a file with more tokens."""
SHORTEST = 16
"""Minimum number of characters in a token."""


@dataclass(eq=False)
class Tokens(HttpMiddleware):
    """Middleware that requires a token (else 401) that allows the request (else 403).

    Paths in ``spared`` need none.
    """

    tokens: InitVar[Sequence[str]]

    def __post_init__(self, tokens: Sequence[str]) -> None:
        self._clients = [parse_token(token, i) for i, token in enumerate(tokens)]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, token = exchange_of(scope).headers.get("authorization", "").partition(" ")
        sent = token.strip().encode("latin-1") if kind.lower() == "bearer" else b""
        # Every token is compared in constant time, so the response time does not reveal any of
        # them.
        matches = [each for each in self._clients if hmac.compare_digest(sent, each.token)]
        if not matches:
            raise ApiError(401, "send a token: Authorization: Bearer TOKEN")
        if (needed := _needed_scope(scope)) not in matches[0].scopes:
            raise ApiError(403, f"this token does not allow it: it is no {needed} one")
        exchange_of(scope).client = matches[0]
        await self.app(scope, receive, send)


def read_tokens() -> list[str]:
    """Return the tokens of clients, from the environment and the file that it names.

    Raises:
        ValueError: a token is too short to be a secret, or its suffix is invalid.
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
    """Return the client of ``TOKEN[:SCOPES[:REQUESTS]]``.

    Scopes are joined by ``+``; without scopes, the client has all of them.

    Raises:
        ValueError: the token is too short to be a secret, or its suffix is invalid.
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
    """Return the scope that a request needs."""
    path, method = path_of(scope), scope["method"]
    if path == METRICS:
        return "metrics"
    changes = method in ("PUT", "DELETE") or (method == "POST" and path.endswith("/images"))
    return "write" if changes and path.startswith("/v1/indexes") else "read"


@dataclass(eq=False)
class Hosts(HttpMiddleware):
    """Middleware for a server without tokens, which protects it from other machines and sites.

    A request must come from this machine under one of its local names, or use one of ``names``
    (else 421). A page of another site is refused (403) unless it is one of ``origins``. This keeps
    other sites from using a local browser.
    """

    names: Sequence[str]
    origins: Sequence[str] = ()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        host = _host_name(f"//{exchange.headers.get('host', '')}")
        if host not in self.names and not (host in LOCAL and _is_loopback(exchange.client.name)):
            raise ApiError(421, "without tokens the server answers to localhost only")
        origin = exchange.headers.get("origin", "")
        if origin and _host_name(origin) != host and origin not in self.origins:
            raise ApiError(403, "a page of another site asked")
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
