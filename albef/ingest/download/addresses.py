"""Where a download may go: which URLs are asked for, and which addresses are connected to.

A name is resolved once, and the address that came of it is checked where the socket for it is made:
public ones alone. So a name that resolves to something else a moment later gains nothing, and a
redirect is no way around: it needs a socket too.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from yarl import URL

from albef.data.refusal import Reason, Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

LONGEST_URL = 8000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def parse(url: str) -> URL:
    """A URL that may be asked for: http or https, with a host and without a password.

    Raises:
        Refused: it may not, which is a BAD_URL.
    """
    if len(url) > LONGEST_URL:
        raise Refused(Reason.BAD_URL, f"the address is longer than {LONGEST_URL} characters")
    try:
        parsed = URL(url.strip())
        host = parsed.raw_host
    except ValueError:
        raise Refused(Reason.BAD_URL, "this is no address") from None
    if parsed.scheme not in ("http", "https") or not host:
        raise Refused(Reason.BAD_URL, "the address is neither http nor https")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise Refused(Reason.BAD_URL, "the address holds a user name or password")
    return parsed.with_fragment(None)


def host_of(url: str) -> str:
    """The host and port of a URL in small letters; "" where it may not be asked for."""
    try:
        parsed = parse(url)
    except Refused:
        return ""
    return f"{parsed.raw_host}:{parsed.port}"


class PrivateAddress(OSError):
    """A connection to an address that is not public was asked for."""


def guarded(allow_loopback: bool) -> Callable[[AddrInfo], socket.socket]:
    """What makes the sockets of a client: only for addresses that may be connected to."""

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, (host, *_) = info
        loopback = is_loopback(str(host))
        if not is_public(str(host)) and not (allow_loopback and loopback):
            remedy = " (`download: {allow_loopback: true}` lets this machine itself be asked)"
            raise PrivateAddress(f"the address is not public{remedy if loopback else ''}")
        return socket.socket(family, kind, protocol)

    return make


def is_public(text: str) -> bool:
    """Whether an address is a public one of one machine.

    Private, shared, loopback, link-local, site-local, multicast, reserved and unspecified ones are
    not, whatever IPv6 form they are wrapped in, and neither is what is no address.
    """
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
    """Whether an address is this machine's own."""
    address = _unwrapped(text)
    return address is not None and address.is_loopback


def _unwrapped(text: str) -> Address | None:
    """The address, out of whatever IPv6 form holds an IPv4 one; None where it is none."""
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
