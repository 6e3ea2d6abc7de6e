"""One request for a picture: where it may go, how long and large it may be, and what it came to."""

import asyncio
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from albef.data.refusal import Reason
from albef.ingest.download.addresses import PrivateAddress, guarded
from albef.ingest.download.limits import Limits

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag that are respected, said to all or to us."""
MOVED = (301, 302, 303, 307, 308)
GONE = (404, 410)
PASSING = (408, 425, 429)
"""Statuses below 500 that may pass."""
BINARY = ("application/octet-stream", "binary/octet-stream", "application/binary")
"""Content types beside ``image/...`` under which pictures are served."""
LONGEST_URL = 8000
_DNS_S = 300  # seconds that a resolved name is kept
_PIECE = 2**16


@dataclass(frozen=True, slots=True)
class Picture:
    """What a server gave."""

    body: bytes
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """Why it gave nothing.

    Attributes:
        reason, detail: as in a Refusal.
        passing: whether it may be different another time.
        answered: whether the host said anything.
        wait: seconds that the server asks to wait; None where it does not.
    """

    reason: Reason
    detail: str
    passing: bool = False
    answered: bool = True
    wait: float | None = None


def session(limits: Limits) -> aiohttp.ClientSession:
    """A client that connects to public addresses only, sends no cookie and uses no proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=limits.connections,
            limit_per_host=limits.per_host,
            ttl_dns_cache=_DNS_S,
            socket_factory=guarded(limits.allow_loopback),
        ),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_s, sock_read=limits.read_s
        ),
        headers={
            "User-Agent": limits.user_agent,
            "Accept": "image/*",
            "Accept-Encoding": "identity",  # a size limit that nothing can be packed below
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


async def fetch(client: aiohttp.ClientSession, address: str, limits: Limits) -> Picture | Failure:
    """Ask once for a picture, following redirects; nothing is raised for what a server does."""
    try:
        async with asyncio.timeout(limits.total_s):
            return await _follow(client, address, limits)
    except TimeoutError:
        return Failure(Reason.TIMED_OUT, "no whole answer in time", passing=True, answered=False)
    except aiohttp.InvalidURL:
        return Failure(Reason.BAD_URL, "the address cannot be asked for")
    except aiohttp.ClientError as error:
        return _failed(error)


def host_of(address: str) -> str:
    """The host and port of an address in small letters; "" where it has none."""
    target = parse(address)
    return "" if isinstance(target, Failure) else f"{target.raw_host}:{target.port}"


def parse(address: str) -> URL | Failure:
    """An address that may be asked for: http or https, with a host and without a password."""
    if len(address) > LONGEST_URL:
        return Failure(Reason.BAD_URL, f"the address is longer than {LONGEST_URL} characters")
    try:
        url = URL(address.strip())
        host = url.raw_host
    except ValueError:
        return Failure(Reason.BAD_URL, "this is no address")
    if url.scheme not in ("http", "https") or not host:
        return Failure(Reason.BAD_URL, "the address is neither http nor https")
    if url.raw_user is not None or url.raw_password is not None:
        return Failure(Reason.BAD_URL, "the address holds a user name or password")
    return url.with_fragment(None)


async def _follow(client: aiohttp.ClientSession, address: str, limits: Limits) -> Picture | Failure:
    for _ in range(limits.redirects + 1):
        target = parse(address)
        if isinstance(target, Failure):
            return target
        async with client.get(target, allow_redirects=False) as response:
            if said := opted_out(response.headers, limits.user_agent):
                return Failure(Reason.OPTED_OUT, f"the server says {said}")
            if response.status not in MOVED:
                return await _read(response, limits)
            location = response.headers.get("Location")
            if location is None:
                return Failure(Reason.HTTP_ERROR, "a redirect to nowhere")
        try:
            address = str(target.join(URL(location)))
        except ValueError:
            return Failure(Reason.BAD_URL, "a redirect to what is no address")
    return Failure(Reason.HTTP_ERROR, f"more than {limits.redirects} redirects")


async def _read(response: aiohttp.ClientResponse, limits: Limits) -> Picture | Failure:
    if response.status != HTTPStatus.OK:
        return _status(response)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind not in BINARY:
        return Failure(Reason.NO_IMAGE, f"the server sends {_plain(kind)}")
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        return Failure(Reason.HTTP_ERROR, f"the server packs it as {_plain(packed)}, unasked")
    too_large = Failure(Reason.TOO_MANY_BYTES, f"more than {limits.max_bytes} bytes")
    if (response.content_length or 0) > limits.max_bytes:
        return too_large
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        body += piece
        if len(body) > limits.max_bytes:
            return too_large
    return Picture(bytes(body))


def _status(response: aiohttp.ClientResponse) -> Failure:
    status = response.status
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    detail = f"status {status} {phrase}".strip()
    if status in GONE:
        return Failure(Reason.NOT_FOUND, detail)
    passing = status in PASSING or status >= 500
    return Failure(Reason.HTTP_ERROR, detail, passing, wait=retry_after(response.headers))


def retry_after(headers: CIMultiDictProxy[str]) -> float | None:
    """Seconds that a server asks to wait, told as such or as a date."""
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
    """The header by which a server asks not to be trained on; "" where it has none.

    X-Robots-Tag with a directive of :data:`OPT_OUTS`, said to all or to our name, and
    ``tdm-reservation: 1``.
    """
    us = user_agent.split("/")[0].split()[0].lower() if user_agent.split() else ""
    for line in headers.getall("X-Robots-Tag", ()):
        if found := _directive(line, us):
            return f"X-Robots-Tag: {found}"
    if headers.get("tdm-reservation", "").strip() == "1":
        return "tdm-reservation: 1"
    return ""


def _directive(line: str, us: str) -> str:
    """The opt-out in a line of X-Robots-Tag; ``name:`` says to whom what follows it is said."""
    to = ""
    for part in line.lower().split(","):
        name, colon, rest = part.strip().partition(":")
        if colon and name.strip() not in ("unavailable_after", "max-snippet", "max-image-preview"):
            to, part = name.strip(), rest
        if part.strip() in OPT_OUTS and to in ("", "*", us):
            return part.strip()
    return ""


def _failed(error: aiohttp.ClientError) -> Failure:
    """What an error of the client means."""

    def lost(detail: str, passing: bool = True) -> Failure:
        return Failure(Reason.UNREACHABLE, detail, passing, answered=False)

    causes = list(_causes(error))
    if any(isinstance(cause, PrivateAddress) for cause in causes):
        return Failure(Reason.PRIVATE_ADDRESS, "the address is not public")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = any(
            isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
            for cause in causes
        )
        return lost("the name could not be resolved" if again else "no such host", again)
    if isinstance(error, aiohttp.ClientSSLError):
        return lost("no connection under a valid certificate", passing=False)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Failure(Reason.UNREACHABLE, "the answer broke off", passing=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return Failure(Reason.HTTP_ERROR, "the answer is no HTTP")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return lost("the connection was closed without an answer")
    return lost("no connection")


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "os_error", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _plain(text: str) -> str:
    """A server's word, short and without odd characters."""
    return re.sub(r"[^\x21-\x7e]", "", text)[:60]
