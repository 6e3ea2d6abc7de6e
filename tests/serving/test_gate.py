import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from albef.serving.gate import JsonLines
from albef.serving.limits import Limits
from tests.serving.running import Running, error, running
from tests.serving.test_app import parts

TOKEN, OTHER = "first-token-of-many", "second-token-of-many"
HEAD = b"POST /v1/embed/texts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def wire(server: Running) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as own:
        yield own


def answer(connection: socket.socket) -> str:
    """All that the server sends until it closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received.decode()


@pytest.fixture(scope="module")
def small(tiny_export: Path) -> Iterator[Running]:
    """A server that takes little and waits shortly."""
    limits = Limits(
        body=20_000, json=2_000, pixels=10_000, header_seconds=0.3, body_seconds=0.3, queue=32
    )
    with running([tiny_export], limits) as server:
        yield server


def test_a_body_that_says_it_is_too_large_is_refused(small: Running) -> None:
    answer = small.client.post("/v1/embed/images", files={"image": ("a", b"x" * 100_000)})
    assert error(answer) == (413, "too_large")
    answer = small.client.post("/v1/embed/texts", json={"texts": ["x" * 3_000]})
    assert error(answer) == (413, "too_large")


def test_a_body_that_does_not_say_so_is_refused_too(small: Running) -> None:
    parts = (b"x" * 1000 for _ in range(10_000))
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = small.client.post("/v1/embed/images", content=parts, headers=kind)
    assert error(answer) == (413, "too_large")
    assert small.engine.metrics.registry.get_sample_value("albef_held_bytes") == 0


def test_a_slow_body_is_not_waited_for(small: Running) -> None:
    with wire(small) as connection:
        connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"te')
        assert "408" in answer(connection).split("\r\n")[0]


def test_slow_headers_are_not_waited_for(small: Running) -> None:
    for begin in (b"", HEAD[:20]):
        with wire(small) as connection:
            connection.sendall(begin)
            start = time.monotonic()
            assert answer(connection) == ""
            assert 0.2 < time.monotonic() - start < 5
    with wire(small) as connection:  # nor in the second request of a connection
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"alive" not in received:
            part = connection.recv(65536)
            assert part
            received += part
        connection.sendall(HEAD[:20])
        assert answer(connection) == ""


def test_huge_headers_are_refused(small: Running) -> None:
    with wire(small) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(HEAD + b"X: " + b"x" * 200_000)
        assert answer(connection)[:12] in ("HTTP/1.1 400", "")
    with wire(small) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert answer(connection).startswith("HTTP/1.1 400")


def test_a_token_is_needed_where_tokens_are_known(tiny_export: Path) -> None:
    with running([tiny_export], tokens=[TOKEN, OTHER]) as server:
        get = server.client.get
        for open_path in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert get(open_path).status_code == 200
        for sent in (None, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer \xe4"):
            headers = {"authorization": sent.encode("latin-1")} if sent else {}
            for path in ("/v1/model", "/metrics", "/v1/nothing"):
                refused = get(path, headers=headers)  # type: ignore[arg-type]
                assert error(refused) == (401, "unauthorized")
                assert refused.headers["www-authenticate"] == "Bearer"
        for token in (TOKEN, OTHER):
            assert get("/v1/model", headers={"authorization": f"bearer {token}"}).is_success
        named = get("/v1/model", headers={"authorization": f"Bearer {TOKEN}", "host": "models"})
        assert named.is_success, "behind a token any name will do"
        security = get("/openapi.json").json()["paths"]["/v1/model"]["get"]["security"]
        assert security == [{"token": []}]


def test_without_tokens_no_other_site_may_ask(retrieval: Running) -> None:
    get = retrieval.client.get
    assert error(get("/v1/model", headers={"host": "evil.example"})) == (421, "misdirected")
    assert error(get("/v1/model", headers={"origin": "http://evil.example"})) == (403, "forbidden")
    assert error(get("/v1/model", headers={"origin": "null"})) == (403, "forbidden")
    own = {"host": f"localhost:{retrieval.port}", "origin": f"http://localhost:{retrieval.port}"}
    assert get("/v1/model", headers=own).is_success


def test_an_answer_that_takes_too_long_is_given_up(
    tiny_export: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export], Limits(seconds=0.0001)) as server:
        late = server.client.post("/v1/embed/images", files=parts("image", pictures * 5))
        assert error(late) == (504, "deadline")
        assert server.client.get("/healthz").is_success


def test_a_failure_has_the_same_shape_and_no_details(
    tiny_export: Path, pictures: list[bytes]
) -> None:
    with running([tiny_export]) as server:
        server.engine._computing.shutdown()
        failed = server.client.post("/v1/embed/images", files=parts("image", pictures))
        assert error(failed) == (500, "internal")
        assert "shutdown" not in failed.text
        assert server.client.get("/v1/model").is_success


def large() -> bytes:
    """A picture that takes long to decode."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (3500, 3500), "red").save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def test_the_work_of_a_client_that_leaves_is_dropped(tiny_export: Path) -> None:
    with running([tiny_export]) as server:
        sample = server.engine.metrics.registry.get_sample_value
        with pytest.raises(httpx.ReadTimeout):
            server.client.post(
                "/v1/embed/images", files=parts("image", [large()] * 32), timeout=0.5
            )
        deadline = time.monotonic() + 3
        while sample("albef_open_requests") != 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        label = {"route": "/v1/embed/images", "method": "POST", "status": "499"}
        assert sample("albef_requests_total", label) == 1
        assert not sample("albef_batch_items_sum", {"run": "retrieval", "step": "pictures"})


def test_decoding_and_computing_leave_the_server_answering(tiny_export: Path) -> None:
    with running([tiny_export]) as server, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(
            server.client.post, "/v1/embed/images", files=parts("image", [large()] * 8)
        )
        times = []
        with httpx.Client(base_url=server.client.base_url) as other:
            while not busy.done():
                start = time.monotonic()
                assert other.get("/healthz").is_success
                times.append(time.monotonic() - start)
                time.sleep(0.02)
        assert busy.result().is_success
        assert len(times) > 3
        assert sorted(times)[len(times) // 2] < 0.3


def test_more_than_the_queue_holds_is_refused_and_the_rest_answered(small: Running) -> None:
    texts = {"texts": [f"dog {i}" for i in range(32)]}

    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=small.client.base_url, timeout=30) as client:
            return client.post("/v1/embed/texts", json=texts)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    refused = [answer for answer in answers if not answer.is_success]
    assert len(refused) < 24
    for answer in refused:
        assert error(answer) == (429, "busy")
        assert int(answer.headers["retry-after"]) >= 1


def test_more_requests_than_are_worked_on_are_refused(tiny_export: Path) -> None:
    with running([tiny_export], Limits(requests=1)) as server, wire(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        time.sleep(0.1)
        answer = server.client.get("/v1/model")
        assert error(answer) == (503, "unavailable")
        assert answer.headers["retry-after"]
        assert server.client.get("/healthz").is_success, "a full server is alive"


def test_bodies_held_at_once_are_bounded(tiny_export: Path) -> None:
    with running([tiny_export], Limits(held=50_000)) as server, wire(server) as connection:
        connection.sendall(HEAD + b"Content-Length: 60000\r\n\r\n" + b" " * 40_000)
        time.sleep(0.1)
        answer = server.client.post("/v1/embed/images", files={"image": ("a", b"x" * 20_000)})
        assert error(answer) == (503, "unavailable")
        assert server.client.get("/v1/model").is_success


def test_a_line_of_the_log_has_no_payload(
    retrieval: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "albef.requests"):
        retrieval.client.post(
            "/v1/embed/texts?secret=1", json={"texts": ["secret"]}, headers={"x-request-id": "mine"}
        )
        deadline = time.monotonic() + 5
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert (line["id"], line["route"], line["status"]) == ("mine", "/v1/embed/texts", 200)
    assert line["received"] == 20
    assert line["ms"] > 0
    assert "secret" not in json.dumps(line)


def test_a_stop_finishes_what_was_accepted(tiny_export: Path) -> None:
    with running([tiny_export]) as server:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(
                server.client.post("/v1/embed/images", files=parts("image", [large()] * 8))
            )

        thread = threading.Thread(target=ask)
        thread.start()
        deadline = time.monotonic() + 5
        while not server.engine.metrics.registry.get_sample_value("albef_open_requests"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.server.handle_exit(15, None)
        thread.join(20)
        assert answers[0].is_success
        assert answers[0].headers["connection"] == "close"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz")


def test_readiness_goes_before_the_server_does(tiny_export: Path) -> None:
    with running([tiny_export]) as server:
        server.server._drain = 0.5
        server.server.handle_exit(15, None)
        refused = server.client.get("/readyz")
        assert error(refused) == (503, "unavailable")
        assert server.client.get("/v1/model").is_success, "what still comes is answered"
        asyncio.run(asyncio.sleep(0.7))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz")
