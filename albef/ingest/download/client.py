"""One request for an image, with limits of time and size."""

import asyncio
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from albef.data.rejection import Reason, RowError
from albef.ingest.download.addresses import PrivateAddressError, parse, public_sockets
from albef.ingest.download.limits import Limits
from albef.io import printable

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag that opt out, addressed to all clients or to this one."""
REDIRECTS = (301, 302, 303, 307, 308)
TEMPORARY = (408, 425, 429)
"""Statuses below 500 that may be temporary."""
# Content types besides image/... under which images are served
_BINARY = ("application/octet-stream", "binary/octet-stream", "application/binary")
# Directives of X-Robots-Tag that contain a colon themselves
_VALUED = ("unavailable_after", "max-snippet", "max-image-preview")
_DNS_S = 300  # seconds that a resolved name is cached
_RESOLVERS = 64  # threads that resolve names
_CHUNK_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Response:
    """Result of a request: an image as its ``body``, or the reason why there is none."""

    reason: Reason | None
    detail: str = ""
    body: bytes = b""
    is_temporary: bool = False
    """True if another attempt may give another result."""
    responded: bool = True
    """True if the host responded at all."""
    wait: float | None = None
    """Seconds that the server asks to wait (``Retry-After``)."""


def _session(limits: Limits) -> aiohttp.ClientSession:
    """Return a client that connects to public addresses only, without cookies or a proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=limits.connections,
            limit_per_host=limits.per_host,
            ttl_dns_cache=_DNS_S,
            socket_factory=public_sockets(limits.allow_loopback),
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_s, sock_read=limits.read_s
        ),
        headers={
            "User-Agent": limits.user_agent,
            "Accept": "image/*",
            # Compression would hide the true size from the size limit.
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


class Client:
    """Client that requests images under some limits; it connects with its first request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str) -> Response:
        """Request an image once, following redirects; raise no error for what a server does."""
        if self._session is None:
            resolvers = ThreadPoolExecutor(_RESOLVERS, "downloads")
            asyncio.get_running_loop().set_default_executor(resolvers)
            self._session = _session(self._limits)
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await _follow(self._session, url, self._limits)
        except TimeoutError:
            detail = "no complete response in time"
            return Response(Reason.TIMED_OUT, detail, is_temporary=True, responded=False)
        except RowError as error:
            return Response(error.reason, str(error))
        except aiohttp.ClientError as error:
            return _failed(error)
        except Exception as error:  # A URL or a response may lead the client to any error.
            return Response(Reason.BAD_URL, f"the URL cannot be requested ({type(error).__name__})")

    async def close(self) -> None:
        """Close the client's connections."""
        if self._session:
            await self._session.close()


async def _follow(client: aiohttp.ClientSession, url: str, limits: Limits) -> Response:
    for _ in range(limits.redirects + 1):
        target = parse(url)
        async with client.get(target, allow_redirects=False) as response:
            if header := opted_out(response.headers, limits.user_agent):
                return Response(Reason.OPTED_OUT, f"the server sent {header}")
            if response.status not in REDIRECTS:
                return await _read(response, limits)
            location = response.headers.get("Location")
            if location is None:
                return Response(Reason.HTTP_ERROR, "the redirect has no Location header")
        try:
            url = str(target.join(URL(location)))
        except ValueError:
            return Response(Reason.BAD_URL, "the redirect leads to an invalid URL")
    return Response(Reason.HTTP_ERROR, f"more than {limits.redirects} redirects")


async def _read(response: aiohttp.ClientResponse, limits: Limits) -> Response:
    status, headers = response.status, response.headers
    if status != HTTPStatus.OK:
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
        detail = f"status {status} {phrase}".strip()
        if status in (404, 410):
            return Response(Reason.NOT_FOUND, detail)
        is_temporary = status in TEMPORARY or status >= 500
        wait = retry_after(headers)
        return Response(Reason.HTTP_ERROR, detail, is_temporary=is_temporary, wait=wait)
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind not in _BINARY:
        return Response(Reason.NO_IMAGE, f"the server sent {printable(kind[:60])}, not an image")
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = (
            f"the server compressed the response without being asked ({printable(encoding[:60])})"
        )
        return Response(Reason.HTTP_ERROR, detail)
    body = bytearray()
    if (response.content_length or 0) <= limits.max_bytes:
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > limits.max_bytes:
                break
        else:
            return Response(None, body=bytes(body))
    return Response(
        Reason.TOO_MANY_BYTES, f"the image has more than {limits.max_mb:g} MiB (max_mb)"
    )


def retry_after(headers: CIMultiDictProxy[str]) -> float | None:
    """Return the seconds that a server asks to wait, given as a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(headers["Date"])
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def opted_out(headers: CIMultiDictProxy[str], user_agent: str) -> str:
    """Return the header by which a server opts out of training this client; "" if it has none."""
    own_name = user_agent.partition("/")[0].strip().partition(" ")[0].lower()
    for line in headers.getall("X-Robots-Tag", ()):
        addressee = ""  # "name:" names the client that the directives after it are addressed to.
        for part in line.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            if colon and name.strip() not in _VALUED:
                addressee, part = name.strip(), rest
            if part.strip() in OPT_OUTS and addressee in ("", "*", own_name):
                return f"X-Robots-Tag: {part.strip()}"
    if headers.get("tdm-reservation", "").strip() == "1":
        return "tdm-reservation: 1"
    return ""


def _failed(error: aiohttp.ClientError) -> Response:
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, PrivateAddressError):
            return Response(Reason.PRIVATE_ADDRESS, str(cause))
    detail, is_temporary, responded = "no connection", True, False
    match error:
        case aiohttp.InvalidURL():
            return Response(Reason.BAD_URL, "the URL cannot be requested")
        case aiohttp.ClientResponseError():
            return Response(Reason.HTTP_ERROR, "the response is not valid HTTP")
        case aiohttp.ClientPayloadError():
            detail, responded = "the connection was lost during the response", True
        case aiohttp.ClientConnectorDNSError():
            is_temporary = any(
                isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
                for cause in causes
            )
            detail = "the host name could not be resolved" if is_temporary else "no such host"
        case aiohttp.ClientSSLError():
            detail, is_temporary = "the host has no valid certificate", False
        case aiohttp.ServerDisconnectedError():
            detail = "the connection was closed without a response"
    return Response(Reason.UNREACHABLE, detail, is_temporary=is_temporary, responded=responded)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
