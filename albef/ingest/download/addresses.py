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
# Ranges that IANA lists as not globally reachable, all of 2001::/23, and multicast, because
# `ipaddress` has other lists in other versions. Sources, as of September 2026:
# https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry
_SPECIAL = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
    "192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    "224.0.0.0/4 240.0.0.0/4 ::/96 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 "
    "2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
)
METADATA = {
    "AWS, Google, Azure, OpenStack": "169.254.169.254",
    "AWS containers": "169.254.170.2",
    "AWS, IPv6": "fd00:ec2::254",
    "Google, IPv6": "fd20:ce::254",
    "Alibaba": "100.100.100.200",
    "Azure WireServer": "168.63.129.16",
    "Oracle": "192.0.0.192",
    "Scaleway": "169.254.42.42",
}
"""Addresses at which clouds give a machine its credentials. One of them is a public address."""
_REFUSED = [ipaddress.ip_network(text) for text in (*_SPECIAL.split(), *METADATA.values())]


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
    return (
        address is not None
        and address.is_global
        and not address.is_reserved
        and not any(address in network for network in _REFUSED)
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
