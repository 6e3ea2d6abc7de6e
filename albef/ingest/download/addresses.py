"""Rules for download targets: which URLs are requested, and which addresses are connected to.

An address is checked when the socket for it is created. A host that resolves differently a moment
later or redirects therefore gains nothing.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from yarl import URL

from albef.data.rejection import Reason, RowError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

MAX_URL_CHARS = 8000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parse(url: str) -> URL:
    """Return a URL that may be requested: http or https, with a host and without a password.

    Raises:
        RowError: the URL may not be requested; the reason is BAD_URL.
    """
    if len(url) > MAX_URL_CHARS:
        raise RowError(Reason.BAD_URL, f"the URL has more than {MAX_URL_CHARS} characters")
    try:
        parsed = URL(url.strip())
        host = parsed.raw_host
    except ValueError:
        raise RowError(Reason.BAD_URL, "not a valid URL") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise RowError(Reason.BAD_URL, "the URL is not http or https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise RowError(Reason.BAD_URL, "the URL contains a user name or password")
    return parsed.with_fragment(None)


def host_of(url: str) -> str:
    """Return the host and port of a URL in lower case; "" if the URL may not be requested."""
    try:
        parsed = parse(url)
    except RowError:
        return ""
    return f"{parsed.raw_host}:{parsed.port}"


class PrivateAddressError(OSError):
    """Error for a connection to an address that is not public."""


def public_sockets(allow_loopback: bool) -> Callable[[AddrInfo], socket.socket]:
    """Return a function that creates a client's sockets, only for allowed addresses."""

    def create(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        loopback = is_loopback(str(host))
        if not is_public(str(host)) and not (allow_loopback and loopback):
            remedy = " (to allow this machine: `download: {allow_loopback: true}`)"
            raise PrivateAddressError(
                f"the host's IP address is not public{remedy if loopback else ''}"
            )
        return socket.socket(family, kind, protocol)

    return create


def is_public(text: str) -> bool:
    """Return whether a text is an address that is public and belongs to one machine."""
    address = _unwrapped(text)
    return address is not None and not (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address.is_link_local
        or address.is_unspecified
        or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
    )


def is_loopback(text: str) -> bool:
    """Return whether an address is a loopback address of this machine."""
    address = _unwrapped(text)
    return address is not None and address.is_loopback


def _unwrapped(text: str) -> Address | None:
    """Return the address; for any IPv6 form of an IPv4 address, the latter; None if invalid."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
