"""Access control: clients with tokens or, if there are none, clients on this machine."""

import functools
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from albef.serving.errors import ApiError
from albef.serving.middleware.exchange import (
    METRICS,
    SCOPES,
    Client,
    ClientGoneError,
    HttpMiddleware,
    Rate,
    exchange_of,
    path_of,
)

LOCAL = ("localhost", "127.0.0.1", "::1")  # Host names of the local machine
TOKENS = "ALBEF_TOKENS"
"""Environment variable with the tokens of clients, separated by commas or spaces. The variable with
the suffix ``_FILE`` has the path of a file with more tokens."""
MIN_LENGTH = 16  # Minimum number of characters in a token
_TOKEN = re.compile(
    r"(?P<token>[^:]+)(:(?P<scopes>[a-z+]*)(:(?P<concurrent>[1-9]\d*)?"
    r"(/(?P<requests>[1-9]\d*)?(/(?P<texts>[1-9]\d*))?)?(:(?P<name>[\w.-]+))?)?)?"
)


@dataclass(eq=False)
class Tokens(HttpMiddleware):
    """Middleware that requires a token (else 401) that allows the request (else 403)."""

    tokens: InitVar[Sequence[str]]

    def __post_init__(self, tokens: Sequence[str]) -> None:
        self._clients = [parse_token(token, i) for i, token in enumerate(tokens, 1)]

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent_headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent_headers) > 1:  # Proxies do not agree on which one counts.
            raise ApiError(401, "send one Authorization header, not several")
        kind, _, token = b"".join(sent_headers).partition(b" ")
        sent = token.strip() if kind.lower() == b"bearer" else b""
        # Compared in constant time, so that the response time reveals no token.
        matches = [each for each in self._clients if hmac.compare_digest(sent, each.token)]
        if not matches:
            raise ApiError(401, "send a known token: Authorization: Bearer TOKEN")
        exchange_of(scope).client = matches[0]
        if (needed := _needed_scope(scope)) not in matches[0].scopes:
            raise ApiError(403, f"the token lacks the scope {needed}")
        await self.app(scope, receive, send)


def read_tokens() -> list[str]:
    """Return the tokens of clients, from the environment and the file that it names.

    Raises:
        ValueError: the file cannot be read, a token is too short to be a secret, or its suffix is
            invalid.
    """
    text = os.environ.get(TOKENS, "")
    if path := os.environ.get(f"{TOKENS}_FILE"):
        try:
            text += f" {Path(path).read_text()}"
        except (OSError, ValueError) as error:
            raise ValueError(f"{TOKENS}_FILE: cannot read {path}: {error}") from None
    tokens = text.replace(",", " ").split()
    for number, token in enumerate(tokens, 1):
        parse_token(token, number)
    return tokens


def parse_token(text: str, number: int) -> Client:
    """Return the client of ``TOKEN[:SCOPES[:REQUESTS[:NAME]]]``.

    Scopes are joined by ``+``. REQUESTS is the number of concurrent requests, or
    ``CONCURRENT/PER_SECOND/TEXTS_PER_SECOND``. An empty part has its default: all scopes, no limit,
    and ``token NUMBER`` as the name.

    Raises:
        ValueError: the token is too short to be a secret, or another part is invalid.
    """
    parts = _TOKEN.fullmatch(text)
    scopes = frozenset(parts["scopes"].split("+") if parts and parts["scopes"] else SCOPES)
    if parts is None or not scopes <= set(SCOPES):
        raise ValueError(
            f"{TOKENS}: token {number} must have the form TOKEN:SCOPES:REQUESTS:NAME, such as "
            f"TOKEN:read+metrics:8:search; scopes are {', '.join(SCOPES)}, and REQUESTS is at "
            "least 1, or CONCURRENT/PER_SECOND/TEXTS_PER_SECOND"
        )
    if len(parts["token"]) < MIN_LENGTH:
        raise ValueError(f"{TOKENS}: token {number} must have at least {MIN_LENGTH} characters")
    name = parts["name"] or f"token {number}"
    requests, texts = (
        Rate(int(parts[unit]), unit) if parts[unit] else None for unit in ("requests", "texts")
    )
    most = int(parts["concurrent"] or 0)
    return Client(name, parts["token"].encode(), scopes, most, requests, texts)


def _needed_scope(scope: Scope) -> str:
    path, method = path_of(scope), scope["method"]
    if path == METRICS:
        return "metrics"
    changes = method in ("PUT", "DELETE") or (method == "POST" and path.endswith("/images"))
    return "write" if changes and path.startswith("/v1/indexes") else "read"


@dataclass(eq=False)
class Hosts(HttpMiddleware):
    """Middleware for a server without tokens, which protects it from other machines and sites.

    A request must come from this machine under one of its local names, or use one of ``names``
    (else 421). A page of another site or port is refused (403) unless it is one of ``origins``.
    This keeps other sites from using a local browser.
    """

    names: Sequence[str]
    origins: Sequence[str] = ()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        address, origin = (exchange.headers.get(name, "") for name in ("host", "origin"))
        host, client = _host_name(f"//{address}"), exchange.client.name
        is_local = host in LOCAL and (client == "::1" or client.startswith("127."))
        if host not in self.names and not is_local:
            if scope["client"] is None:  # The connection was closed before its address was read.
                raise ClientGoneError
            raise ApiError(421, "without tokens, the server answers only to localhost")
        if origin and origin not in self.origins:
            # A proxy may change the port of one of its names.
            same_port = host in self.names or origin.endswith(f"//{address}")
            if _host_name(origin) != host or not same_port:
                raise ApiError(403, "pages of this origin may not call the server")
        await self.app(scope, receive, send)


@functools.lru_cache
def _host_name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
