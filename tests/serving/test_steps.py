"""The longest step of the event loop, in lines of Python: a long one holds up every client."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from albef.serving.app import warm_up
from albef.serving.limits import Limits
from tests.serving.running import PATIENCE, Running, exchange, running

MOST = 120_000
"""Lines of a step; a few milliseconds."""
MIB = 2**20
JSON, FORM = "application/json", "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
END = b"\r\n--x--\r\n"
TEXTS, IMAGES = "/v1/embed/texts", "/v1/embed/images"
HOSTILE = {
    "long texts": (TEXTS, JSON, json.dumps({"texts": ["a dog " * 300] * 32}).encode()),
    "many fields": (TEXTS, JSON, json.dumps({f"{i}": 0 for i in range(20_000)}).encode()),
    "many errors": ("/v1/embeddings", JSON, json.dumps({"input": [{"a": ""}] * 2048}).encode()),
    "a large file": (IMAGES, FORM, PART + b"\0" * 2 * MIB + END),
    "almost boundaries": (IMAGES, FORM, PART + b"\r\n-" * MIB + END),
    "many parts": (IMAGES, FORM, (PART + b"\r\n") * 4_000 + END),
    "many headers": (IMAGES, FORM, b"--x\r\n" + b"a:b\r\n" * 20_000),
    "chunks of a byte": (IMAGES, FORM, PART + b"x" * 20_000 + END),
}


class Lines:
    """A trace function that counts the lines of each step of a loop, in its thread."""

    longest = _lines = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> "Lines":
        if event == "line":
            self._lines += 1
            self.longest = max(self.longest, self._lines)
        elif event == "call" and frame.f_code is asyncio.Handle._run.__code__:
            self._lines = 0
        return self


@pytest.fixture
def traced(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Lines]]:
    """A server on Python's own loop, whose steps are counted."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    lines, before = Lines(), threading.gettrace()
    threading.settrace(lines)
    patient = Limits(seconds=PATIENCE, body_seconds=PATIENCE, piece_seconds=PATIENCE)
    try:
        with running([tiny_export], patient) as server:
            threading.settrace(before)  # type: ignore[arg-type]  # Its stub has no None.
            yield server, lines
    finally:
        threading.settrace(before)  # type: ignore[arg-type]


def test_no_request_makes_a_long_step(traced: tuple[Running, Lines]) -> None:
    server, lines = traced
    warm_up(server.app)  # FastAPI prepares its routes.
    for name, (path, kind, body) in HOSTILE.items():
        lines.longest = 0
        head, length = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n", len(body)
        size = f"Content-Length: {length}"
        if name == "chunks of a byte":
            size = "Transfer-Encoding: chunked"
            body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        head += f"Connection: close\r\nContent-Type: {kind}\r\n{size}\r\n\r\n"
        expected = b"HTTP/1.1 200" if name == "long texts" else b"HTTP/1.1 4"
        assert exchange(server.port, head.encode() + body).startswith(expected), name
        assert 0 < lines.longest < MOST, name
