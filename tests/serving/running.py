"""A real server of real exports, on loopback."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from albef.serving.app import build
from albef.serving.engine import Engine
from albef.serving.gate import Gate, State
from albef.serving.index import EXACT, Store
from albef.serving.limits import Limits
from albef.serving.metrics import Metrics
from albef.serving.served import Served
from albef.serving.server import Server


class Running(NamedTuple):
    """A server in a thread of this process.

    Attributes:
        client: whose addresses start at the server.
        port: of the server.
        engine: what computes.
        server: of uvicorn.
    """

    client: httpx.Client
    port: int
    engine: Engine
    server: Server


@contextlib.contextmanager
def running(
    exports: Sequence[Path],
    limits: Limits | None = None,
    *,
    tokens: Sequence[str] = (),
    indexes: Path | None = None,
    gallery: Path | None = None,
    exact: int = EXACT,
) -> Iterator[Running]:
    """Serve exports inside this context."""
    limits, metrics, state = limits or Limits(), Metrics(), State()
    served = [Served.load(folder, threads=1) for folder in exports]
    engine = Engine(served, Store(indexes, exact), limits, metrics)
    app = build(engine, state, gallery=gallery, tokens=bool(tokens))
    server = Server(Gate(app, limits, metrics, state, tokens), state, limits, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Running(client, port, engine, server)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which has the one shape that all have."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"]
