"""Requests that two parsers could read differently, to the server alone and behind nginx.

The cases are those of the public lists (PortSwigger's research, h2csmuggler, http-garden). Each one
holds a second request, SMUGGLED, in a place where a wrong parser would see it. Behind nginx, no
case may have more requests answered than nginx has read. The server alone refuses all but BARE.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from albef.serving.limits import Limits
from tests.deploy.test_nginx import proxied
from tests.serving.running import Running, exchange, running

SMUGGLED = b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b'{"texts": ["a"]}'
CHUNKED = b"Transfer-Encoding: chunked"


def chunks(body: bytes) -> bytes:
    """A body in one chunk."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


CHUNK = chunks(BODY)


def post(headers: bytes, body: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    line = b"POST /v1/embed/texts " + version + b"\r\nHost: localhost\r\n"
    return line + b"Content-Type: application/json\r\n" + headers + b"\r\n\r\n" + body


def encoded(value: bytes) -> bytes:
    """A body of no chunk, whose length covers a smuggled request."""
    body = b"0\r\n\r\n" + SMUGGLED
    return post(value + b"\r\nContent-Length: %d" % len(body), body)


AMBIGUOUS = {
    "the length, or chunks": encoded(CHUNKED),
    "chunks, or the length": post(b"Content-Length: 4\r\n" + CHUNKED, chunks(SMUGGLED)),
    **{
        f"encoding {value!r}": encoded(value)
        for value in (
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding\t: chunked",
            b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            b"Transfer-Encoding:\tchunked",
            b"Transfer-Encoding:\r\n chunked",
            b"X: x\nTransfer-Encoding: chunked",
            b"X: x\rTransfer-Encoding: chunked",
            b"X: x\r\n\rTransfer-Encoding: chunked",
            b"Transfer-Encoding\r\n : chunked",
            b"Transfer-Encoding: identity, chunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding: chunked\x00",
            b'Transfer-Encoding: "chunked"',
            b"Transfer-Encoding: CHUNKED",
            b"Transfer-Encoding: chunked;x=1",
            b"Transfer-\x00Encoding: chunked",
            b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
        )
    },
    **{
        f"length {value!r}": post(b"Content-Length: " + value, BODY + SMUGGLED)
        for value in (
            *(b"16, 20", b"16\r\nContent-Length: 60", b"60\r\nContent-Length: 16", b"+16", b"-16"),
            *(b"0x10", b"1 6", b"1_6", b"16\x0b", b"16\x00", b"16;", b"16.0", b"1e1", b"9" * 30),
            *(b"", b"\xd9\xa1\xd9\xa6", b"16\r\nContent-Length : 0"),
        )
    },
    **{
        f"chunk {chunk!r}": post(CHUNKED, chunk + SMUGGLED)
        for chunk in (
            *(sign + CHUNK for sign in (b"+", b"-", b"0x", b"1_", b" ", b"\r\n", b"g")),
            *(b"10;a\nb" + CHUNK[2:], b"10;\n" + CHUNK[4:], b"10\r" + CHUNK[4:]),
            *(b"10\n" + BODY + b"\n0\n\n", b"10\r\n" + BODY + b"0\r\n\r\n"),
            *(b"10\r\n" + BODY + end + b"0\r\n\r\n" for end in (b"XX", b"\n", b"\r")),
            *(b"%x\r\n" % size + CHUNK[4:] for size in (2**64 + 16, 2**84)),
            CHUNK[:-2] + b"X: y\r\n\rz: y\r\n\r\n",
        )
    },
    "a long chunk extension": post(CHUNKED, b"10;" + b"a" * 40_000 + CHUNK[2:] + SMUGGLED),
    "HTTP/1.0 with both": post(b"Content-Length: 16\r\n" + CHUNKED, CHUNK + SMUGGLED, b"HTTP/1.0"),
    "a coded body": post(b"Transfer-Encoding: gzip, chunked", CHUNK + SMUGGLED),
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + SMUGGLED,
    "a zero byte": post(b"X: a\x00b\r\nContent-Length: 16", BODY + SMUGGLED),
    "no name": post(b": b\r\nContent-Length: 16", BODY + SMUGGLED),
    "two hosts": post(b"Host: b\r\nContent-Length: 16", BODY + SMUGGLED),
    "two versions": post(b"Content-Length: 16", BODY + SMUGGLED, b"HTTP/1.1 HTTP/1.1"),
    "a tab in the line": post(b"Content-Length: 16", BODY + SMUGGLED, b"\tHTTP/1.1"),
}
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAR\r\n"
UPGRADES = {
    f"{protocol!r} {name}": post(UPGRADE % protocol + framing, body)
    for protocol in (b"h2c", b"websocket", b"TLS/1.0")
    for name, framing, body in (
        ("with a length", b"Content-Length: %d" % (16 + len(SMUGGLED)), BODY + SMUGGLED),
        ("in chunks", CHUNKED, chunks(BODY + SMUGGLED)),
    )
}
"""Bodies with a second request. The server must not take them for bytes of another protocol."""
BARE = ("a long chunk extension", "a coded body", "two hosts")
"""Cases with clear framing, which uvicorn alone does not refuse; docs/explanation/security.md."""


@pytest.fixture(scope="module")
def server(tiny_export: Path) -> Iterator[Running]:
    with running([tiny_export], Limits(body_seconds=1)) as server:  # for what never ends
        yield server


@pytest.fixture(scope="module")
def proxy(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx")
    names = ("client_body_timeout", "client_header_timeout", "keepalive_timeout")
    waits = dict.fromkeys(names, "300ms")  # for requests whose end nginx reads elsewhere
    with proxied(tiny_export, tmp_path_factory.mktemp("nginx"), **waits) as port:
        yield port


def statuses(port: int, request: bytes, split: int = 0) -> tuple[list[int], bytes]:
    """The statuses of all answers, and their bytes. The request may come in two segments."""
    received = exchange(port, request[:split], request[split:])
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", received)], received


def counted(port: int) -> float:
    """The number of requests that the server behind a proxy has answered."""
    _, page = statuses(port, SMUGGLED.replace(b"/v1/model", b"/metrics"))
    return sum(map(float, re.findall(rb"^albef_requests_total{.*} (.*)$", page, re.M)))


def settled(port: int) -> float:
    """The same number, once every answered request is counted: each reading then adds only one."""
    last = counted(port)
    while (now := counted(port)) != last + 1:
        last = now
    return now


def test_ambiguous_requests_are_refused_and_end_the_connection(server: Running) -> None:
    for name, request in AMBIGUOUS.items():
        codes, received = statuses(server.port, request)
        if name in BARE:  # Both requests of the client are answered, and no third one.
            assert codes == [200, 200], name
            continue
        assert len(codes) <= 1, name
        assert all(400 <= code < 500 for code in codes), name
        assert b"onnxruntime" not in received, f"{name}: the smuggled request was answered"


@pytest.mark.slow
def test_ambiguous_requests_behind_nginx(proxy: int) -> None:
    for name, request in {**AMBIGUOUS, **UPGRADES}.items():
        before = settled(proxy)
        codes, _ = statuses(proxy, request)
        after = counted(proxy)
        # nginx reads some of them in one way, and the server gets what nginx has read.
        assert after - before - 1 <= len(codes), name


def test_the_body_of_an_offer_of_another_protocol_is_not_a_request(server: Running) -> None:
    close = b"Connection: close\r\n"
    for name, request in UPGRADES.items():
        codes, received = statuses(server.port, request.replace(b"Host:", close + b"Host:", 1))
        assert (codes, b"onnxruntime" in received) == ([422], False), name
