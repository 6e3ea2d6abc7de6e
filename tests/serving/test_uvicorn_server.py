"""A server on a wire: slow and broken clients, a full queue, and its end."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvloop

from albef.runtime.model import Floats
from albef.serving.limits import Limits
from albef.serving.uvicorn_server import _JoinedWrites
from tests.serving.running import PATIENCE, Running, error, running, wait_until

HEAD = b"POST /v1/embed/texts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"texts": ["a dog"]}'
END = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
TEXTS = {"texts": [f"dog {i}" for i in range(32)]}


@contextlib.contextmanager
def wire(server: Running) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


def read_all(connection: socket.socket) -> str:
    """All that the server sends until it closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received.decode()


class Busy:
    """The thread of a server that computes, held up until it is let go."""

    def __init__(self, server: Running) -> None:
        self._server, self._held, self._go = server, threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.let_go = self._go.set
        server.engine._computing.submit(self._hold)
        assert self._held.wait(PATIENCE)

    def _hold(self) -> None:
        self._held.set()
        self._go.wait(PATIENCE)

    def post(self) -> Future[httpx.Response]:
        """A request that waits: a batch of it is taken, the others are in the queue."""
        answer = self._pool.submit(self._server.client.post, "/v1/embed/texts", json=TEXTS)
        wait_until(lambda: self.waiting == len(TEXTS["texts"]) - Limits().batch)
        return answer

    @property
    def waiting(self) -> float:
        """Texts in the queue."""
        return self._server.metric("albef_waiting_items", run="retrieval", step="texts")


@pytest.fixture
def server(tiny_export: Path) -> Iterator[Running]:
    with running([tiny_export], Limits(queue=32)) as server:
        yield server


def test_slow_and_broken_headers_are_not_waited_for(tiny_export: Path) -> None:
    with running([tiny_export], Limits(header_seconds=0.3)) as server:
        for begin in (b"", HEAD[:20]):
            with wire(server) as connection:
                connection.sendall(begin)
                assert read_all(connection) == ""
        with wire(server) as connection:  # nor in the second request of a connection
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"alive" not in received:
                received += connection.recv(65536)
            connection.sendall(HEAD[:20])
            assert read_all(connection) == ""
        with wire(server) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(HEAD + b"X: " + b"x" * 200_000)
            assert read_all(connection)[:12] in ("HTTP/1.1 400", "")
        for head in (HEAD + b"X: " + b"x" * 17_000, HEAD + b"X: x\r\n" * 3000):  # as a whole
            with wire(server) as connection:
                connection.sendall(head + b"\r\n\r\n")
                answer = read_all(connection)
                assert not answer or "the request cannot be read" in answer
        with wire(server) as connection:
            connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
            answer = read_all(connection)
            assert answer.startswith("HTTP/1.1 400")
            assert '"code": "bad_request", "message": "the request cannot be read"' in answer


def test_a_client_that_is_refused_while_it_sends_sees_why(tiny_export: Path) -> None:
    with running([tiny_export], Limits(body=20_000)) as server:
        parts = (b"x" * 1000 for _ in range(25))
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = server.client.post("/v1/embed/images", content=parts, headers=headers)
        assert error(answer) == (413, "too_large")
        assert server.metric("albef_held_bytes") == 0


def test_a_busy_server_answers_and_refuses_what_its_queue_does_not_hold(server: Running) -> None:
    busy = Busy(server)
    first = busy.post()
    refused = httpx.post(f"{server.client.base_url}/v1/embed/texts", json=TEXTS)
    assert error(refused) == (429, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.get(f"{server.client.base_url}/v1/model").is_success
    busy.let_go()
    assert len(first.result(PATIENCE).json()["embeddings"]) == 32


def test_a_server_whose_decoders_are_held_up_is_not_ready(
    tiny_export: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, held = threading.Event(), threading.Semaphore(0)

    def decode_for_long(self: object, image: bytes, number: int, *, counted: bool) -> Floats:
        held.release()
        assert go.wait(PATIENCE)
        return np.zeros((3, 16, 16), np.float32)

    monkeypatch.setattr("albef.serving.model_queues.ModelQueues.pixels", decode_for_long)
    images = [("image", ("a.png", picture)) for picture in pictures[:2]]
    with running([tiny_export], Limits(decode=0)) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.client.post, "/v1/embed/images", files=images)
        assert held.acquire(timeout=PATIENCE)
        assert held.acquire(timeout=PATIENCE)
        base = f"{server.client.base_url}"
        assert error(httpx.get(f"{base}/readyz")) == (503, "unavailable")
        refused = httpx.post(f"{base}/v1/embed/images", files=images)
        assert error(refused) == (503, "unavailable")
        assert httpx.get(f"{base}/healthz").is_success
        go.set()
        assert answer.result(PATIENCE).is_success
        assert httpx.get(f"{base}/readyz").is_success


def test_the_work_of_a_client_that_leaves_is_dropped(server: Running) -> None:
    busy = Busy(server)
    with wire(server) as connection:
        connection.sendall(HEAD + END)
        wait_until(lambda: server.metric("albef_open_requests") == 1)
    gone = {"route": "/v1/embed/texts", "method": "POST", "status": "499"}
    wait_until(lambda: server.metric("albef_requests_total", **gone) == 1)
    assert busy.waiting == 0
    busy.let_go()


def test_a_stop_finishes_what_was_accepted(server: Running) -> None:
    busy = Busy(server)
    answer = busy.post()
    server.server.handle_exit(15, None)
    busy.let_go()
    assert answer.result(PATIENCE).headers["connection"] == "close"
    assert answer.result().is_success
    server.thread.join(PATIENCE)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.client.base_url}/healthz")


@pytest.mark.parametrize("twice", [False, True])
def test_readiness_goes_before_the_server_does(server: Running, twice: bool) -> None:
    server.server.drain = PATIENCE
    server.server.handle_exit(15, None)
    assert error(server.client.get("/readyz")) == (503, "unavailable")
    assert server.client.get("/v1/model").is_success, "what still comes is answered"
    assert server.thread.is_alive()
    if twice:
        server.server.handle_exit(15, None)  # a second signal does not wait
    else:
        server.server.drain = 0  # its time is over
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_strangers_on_all_connections_keep_nobody_out(tiny_export: Path) -> None:
    limits = Limits(connections=8, requests=2)
    tokens = ["first-token-of-many"]
    with running([tiny_export], limits, tokens=tokens) as server, contextlib.ExitStack() as slow:
        ask = {"headers": {"authorization": f"Bearer {tokens[0]}"}, "json": {"texts": ["a dog"]}}
        assert server.client.post("/v1/embed/texts", **ask).is_success  # keeps its connection
        for begin in (b"", HEAD[:20], HEAD + b"Content-Length: 9\r\n\r\n{") * 4:
            slow.enter_context(wire(server)).sendall(begin)
        for _ in range(3):
            assert server.client.post("/v1/embed/texts", **ask).is_success
            fresh = httpx.post(f"{server.client.base_url}/v1/embed/texts", **ask, timeout=PATIENCE)
            assert fresh.is_success


def test_a_full_server_says_how_it_is_and_refuses_before_the_body(tiny_export: Path) -> None:
    with running([tiny_export], Limits(requests=1)) as server:
        busy = Busy(server)
        first = busy.post()
        base = f"{server.client.base_url}"
        with httpx.Client(base_url=base, timeout=PATIENCE) as client:
            for _ in range(2):  # on a connection that stays
                refused = client.post("/v1/embed/texts", json=TEXTS)
                assert error(refused) == (503, "unavailable")
                assert refused.headers["retry-after"] == "1"
                assert "connection" not in refused.headers
            for path in ("/metrics", "/healthz", "/readyz"):
                assert client.get(path).is_success
        assert server.metric("albef_refused_total", reason="requests") == 2
        busy.let_go()
        assert first.result(PATIENCE).is_success


def test_a_stop_resets_nobody_who_has_connected(server: Running) -> None:
    held, go = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        go.wait(PATIENCE)

    loop = server.server.servers[0].get_loop()
    with wire(server) as early, wire(server) as used:
        used.sendall(HEAD + END)
        assert b"200 OK" in used.recv(65536)
        asyncio.run_coroutine_threadsafe(hold(), loop)
        assert held.wait(PATIENCE)
        with wire(server) as late:  # the system has accepted it, the server has not
            for connection in (late, early, used):
                connection.sendall(HEAD + END)
            server.server.handle_exit(15, None)
            go.set()
            for connection in (early, used, late):
                answer = read_all(connection)
                assert answer.startswith("HTTP/1.1 200 OK")
                assert "connection: close" in answer
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_an_offer_of_another_protocol_is_passed_over(server: Running) -> None:
    with wire(server) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + END)
            assert b"200 OK" in connection.recv(65536)


def test_an_answer_to_a_client_that_left_meanwhile_is_dropped() -> None:
    async def run() -> None:
        loop, accepted = asyncio.get_running_loop(), []

        class Accept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.append(transport)

        async with await loop.create_server(Accept, "127.0.0.1", 0) as server:
            reader, client = await asyncio.open_connection(*server.sockets[0].getsockname())
            while not accepted:
                await asyncio.sleep(0)
            accepted[0].abort()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()  # to the end: the loop has closed it
            client.close()
            answer = _JoinedWrites(SimpleNamespace(transport=accepted[0], on_response=list))  # type: ignore[arg-type]
            answer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            answer.write(b"body")

    uvloop.run(run())
