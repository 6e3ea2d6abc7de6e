"""Only public addresses, however they are written."""

import socket

import pytest

from albef.ingest.download.addresses import (
    METADATA,
    PrivateAddressError,
    is_loopback,
    is_public,
    public_sockets,
)

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1",
    "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1",
    "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1",
    "2002:7f00:1::", "2002:a00:1::", "2001:0:0:0:0:0:80ff:fffe", "192.0.0.8", "192.0.0.192",
    "192.88.99.2", "198.51.100.1", "203.0.113.1", "64:ff9b:1::1", "100::1", "100:0:0:1::1",
    "2001:2::1", "3fff::1", "5f00::1", "::ffff:168.63.129.16", "64:ff9b::192.0.0.192",
    *METADATA.values(),
    "127.1", "2130706433", "0x7f000001", "localhost", "", "017.0.0.1",  # other ways to write one
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


def info(host: str) -> tuple[int, int, int, str, tuple[str, int]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 0, "", (host, 80)


def test_what_is_not_public_gets_no_socket() -> None:
    for host in PRIVATE:
        assert not is_public(host), host
        for allow_loopback in (False, not is_loopback(host)):
            with pytest.raises(PrivateAddressError):
                public_sockets(allow_loopback)(info(host))


def test_what_is_public_gets_one() -> None:
    for host in PUBLIC:
        assert is_public(host), host
        public_sockets(allow_loopback=False)(info(host)).close()
