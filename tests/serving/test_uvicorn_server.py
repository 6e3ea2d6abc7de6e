"""A server on a wire: broken requests, a full queue, and its end."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from albef.serving.limits import Limits
from tests.serving.running import PATIENCE, Running, error, exchange, parts, running, wait_until

HEAD = b"POST /v1/embed/texts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"texts": ["a dog"]}'
END = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
TOKEN = "a-token-of-a-client"
TEXTS = {"texts": [f"dog {i}" for i in range(32)]}


@contextlib.contextmanager
def wire(server: Running) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


class Busy:
    """The thread of a server that computes, held up until it is let go."""

    def __init__(self, server: Running) -> None:
        self._server, self._held, self._go = server, threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.let_go = self._go.set
        server.engine.models[0].threads.submit(self._hold)
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


def test_a_broken_request_is_refused(server: Running) -> None:
    for request in (b"\x16\x03\x01 nonsense\r\n\r\n", HEAD + b"X\r\n\r\n"):
        assert exchange(server.port, request).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(("proxies", "client"), [(["127.0.0.1"], "192.0.2.7"), ([], "127.0.0.1")])
def test_only_a_named_proxy_says_who_its_client_is(
    tiny_export: Path, proxies: list[str], client: str
) -> None:
    with running([tiny_export], tokens=[TOKEN], proxies=proxies) as server:
        # The client sent the first address, the proxy has added the second one.
        sent = {"x-forwarded-for": "10.0.0.1, 192.0.2.7", "authorization": f"Bearer {TOKEN}"}
        assert server.client.get("/v1/model", headers=sent).is_success
        wait_until(lambda: server.log.getvalue().endswith("\n"))
    assert json.loads(server.log.getvalue().splitlines()[0])["client"] == client


def test_a_large_body_is_refused_before_it_is_asked_for(server: Running) -> None:
    with wire(server) as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_busy_server_answers_and_refuses_what_its_queue_does_not_hold(server: Running) -> None:
    busy = Busy(server)
    first = busy.post()
    refused = httpx.post(f"{server.client.base_url}/v1/embed/texts", json=TEXTS)
    assert error(refused) == (429, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    assert httpx.get(f"{server.client.base_url}/v1/model").is_success
    busy.let_go()
    assert len(first.result(PATIENCE).json()["embeddings"]) == 32


def test_a_busy_export_does_not_hold_up_another(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    with running([tiny_exports["retrieval"], tiny_exports["entailment"]]) as server:
        busy = Busy(server)
        waiting = busy.post()
        files = parts("image", pictures[:1])
        with httpx.Client(base_url=server.client.base_url, timeout=PATIENCE) as client:
            other = client.post("/v1/entail", files=files, data={"statement": "a dog"})
        assert other.is_success
        assert not waiting.done()
        busy.let_go()
        assert waiting.result(PATIENCE).is_success


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


def test_readiness_goes_before_the_server_does(server: Running) -> None:
    server.server.drain = PATIENCE
    server.server.handle_exit(15, None)
    assert error(server.client.get("/readyz")) == (503, "unavailable")
    assert server.client.get("/v1/model").is_success, "what still comes is answered"
    assert server.thread.is_alive()
    server.server.handle_exit(15, None)  # a second signal does not wait
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_a_full_server_says_how_it_is_and_refuses_before_the_body(tiny_export: Path) -> None:
    with running([tiny_export], Limits(requests=1)) as server:
        busy = Busy(server)
        first = busy.post()
        with httpx.Client(base_url=server.client.base_url, timeout=PATIENCE) as client:
            for _ in range(2):  # on a connection that stays
                refused = client.post("/v1/embed/texts", json=TEXTS)
                assert error(refused) == (503, "unavailable")
                assert refused.headers["retry-after"] == "1"
            for path in ("/metrics", "/healthz", "/readyz"):
                assert client.get(path).is_success
        assert server.metric("albef_refused_total", reason="requests") == 2
        busy.let_go()
        assert first.result(PATIENCE).is_success
