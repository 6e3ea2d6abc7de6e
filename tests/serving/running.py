"""A real server of real exports, on loopback."""

import base64
import contextlib
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI

from albef.runtime.manifest import NAME
from albef.serving.app import create_app
from albef.serving.engine import Engine
from albef.serving.following import Follower
from albef.serving.limits import Limits, Options
from albef.serving.middleware.exchange import State
from albef.serving.uvicorn_server import Server

PATIENCE = 120
"""Seconds until a test gives up, on a machine that has much else to do."""


class Running(NamedTuple):
    """A server in a thread of this process, with a client and its log."""

    client: httpx.Client
    port: int
    app: FastAPI
    server: Server
    thread: threading.Thread
    log: io.StringIO

    @property
    def follower(self) -> Follower:
        """What keeps the engine."""
        follower: Follower = self.app.state.follower
        return follower

    @property
    def engine(self) -> Engine:
        """What computes now."""
        return self.follower.engine

    def metric(self, name: str, **labels: str) -> float:
        """A number of the server; 0 if it was not counted yet."""
        return self.engine.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def running(
    exports: Sequence[Path], limits: Limits | None = None, **options: Any
) -> Iterator[Running]:
    """Serve exports inside this context; the options are those of the application."""
    served = Options(exports, limits or Limits(), threads=1, **options)
    state = State(log=(log := io.StringIO()))
    app = create_app(served, state)
    server = Server(app, state, served, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            yield Running(client, port, app, server, thread, log)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


@contextlib.contextmanager
def serving(*command: object, cwd: Path, **environment: str) -> Iterator[tuple[Popen[str], str]]:
    """A server that a command of Python starts as a process, and its address."""
    root = str(Path(__file__).parents[2])
    with Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": root, "ALBEF_TOKENS": "", **environment},
        cwd=cwd,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = json.loads(process.stderr.readline())
            yield process, line["message"].removeprefix("serving at ")
        finally:
            process.kill()  # else leaving the block would wait for a server that nobody stops


def wait_until(done: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that is certain to happen, however slow the machine."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def exchange(port: int, *segments: bytes) -> bytes:
    """All that a server sends until it closes a connection, which it may do before it reads all."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for segment in segments:
                connection.sendall(segment)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
    return received


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which has the one shape that all have."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "type", "param"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"]


def parts(field: str, images: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Pictures as a field of a form."""
    return [(field, ("a.png", image)) for image in images]


def describe(folder: Path, **facts: Any) -> Path:
    """Change facts of the model in the manifest of an export."""
    manifest = json.loads((folder / NAME).read_text())
    manifest["model"] |= facts
    (folder / NAME).write_text(json.dumps(manifest))
    return folder


def uri(image: bytes) -> str:
    """A picture as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
