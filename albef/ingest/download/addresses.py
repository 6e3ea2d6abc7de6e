"""Which addresses a download may connect to: public ones, checked on the socket that is used.

A name is resolved once, and the address that came of it is checked where the socket for it is made.
So a name that resolves to something else a moment later gains nothing, and a redirect is no way
around: it needs a socket too.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class PrivateAddress(OSError):
    """A connection to an address that is not public was asked for."""

    def __init__(self) -> None:
        super().__init__("the address is not public")


def is_public(text: str) -> bool:
    """Whether an address is a public one of one machine.

    Private, shared, loopback, link-local, site-local, multicast, reserved and unspecified ones are
    not, whatever IPv6 form they are wrapped in, and neither is what is no address.
    """
    address = _parsed(text)
    return address is not None and address.is_global and not _special(address)


def is_loopback(text: str) -> bool:
    """Whether an address is this machine's own."""
    address = _parsed(text)
    return address is not None and address.is_loopback


def guarded(allow_loopback: bool) -> Callable[[AddrInfo], socket.socket]:
    """What makes the sockets of a client: only for addresses that may be connected to."""

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _, where = info
        host = str(where[0])
        if not is_public(host) and not (allow_loopback and is_loopback(host)):
            raise PrivateAddress
        return socket.socket(family, kind, protocol)

    return make


def _parsed(text: str) -> Address | None:
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


def _special(address: Address) -> bool:
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return (
        site_local
        or address.is_multicast
        or address.is_reserved
        or address.is_link_local
        or address.is_unspecified
    )
