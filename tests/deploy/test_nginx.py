"""The shipped configuration of nginx, before real servers."""

import asyncio
import collections
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import free_port
from tests.serving.running import PATIENCE, describe, error, running, wait_until

CONFIG = Path(__file__).parents[2] / "deploy/nginx.conf"
FORM = "Content-Type: multipart/form-data; boundary=x"
SLOW = f"POST /v1/match HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: 99\r\n\r\n".encode()
PORTS = (8081, 8082)
CLIENTS = 8
NEEDS_NGINX = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")


@contextmanager
def process(
    command: list[str], environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    silent = subprocess.DEVNULL
    started = subprocess.Popen(command, stdout=silent, stderr=silent, env=environment)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def wait_for(port: int) -> None:
    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(is_ready)


def nginx(config: Path, folder: Path) -> list[str]:
    command = ["nginx", "-c", str(config), "-p", str(folder), "-e", "stderr"]
    return [*command, "-g", "master_process off;"]  # Its workers would outlive a killed master.


@contextmanager
def proxied(export: Path, folder: Path, **changed: str) -> Iterator[int]:
    """nginx before a server, with values of the configuration ``changed``; its port."""
    port = free_port()
    with running([export]) as server:
        text = re.sub("127.0.0.1:808[12]", f"127.0.0.1:{server.port}", CONFIG.read_text())
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        for directive, value in changed.items():
            text, count = re.subn(rf"(?m)((?:^ *|{{ ){directive}) [^;]*;", rf"\1 {value};", text)
            assert count == 1
        (folder / "nginx.conf").write_text(text)
        command = nginx(folder / "nginx.conf", folder)
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with process(command):
            wait_for(port)
            yield port


@NEEDS_NGINX
def test_nginx_bounds_what_a_bare_server_does_not(tiny_export: Path, tmp_path: Path) -> None:
    changed = {
        "worker_connections": "64",
        "client_header_timeout": "1s",
        "limit_conn": "connections 1",
    }
    with (
        proxied(tiny_export, tmp_path, **changed) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client,
    ):
        offers = {"connection": "upgrade", "upgrade": "h2c"}
        for headers in ({}, offers):
            answer = client.post("/v1/embed/texts", json={"texts": ["a dog"]}, headers=headers)
            assert answer.is_success
        assert error(client.post("/v1/match", content=b"x" * (2**24 + 1))) == (413, "too_large")
        assert client.get("/", headers={"x": "y" * 20_000}).status_code == 400
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as silent:
            silent.sendall(SLOW[:20])  # the headers do not end
            with suppress(ConnectionResetError):
                assert silent.recv(99) == b""
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(SLOW)  # the body does not come
            wait_until(lambda: client.get("/v1/model").status_code == 429)
            busy = client.get("/v1/model")
            assert error(busy) == (429, "busy")
            assert busy.headers["retry-after"] == "1"
        with ExitStack() as flood:
            for _ in range(100):  # connections without a request
                flood.enter_context(socket.create_connection(("127.0.0.1", port)))
            wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/v1/model").is_success)


def documented(page: str, language: str) -> list[str]:
    """Code blocks of a language on a page of the docs."""
    text = (CONFIG.parents[1] / "docs" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@NEEDS_NGINX
def test_clients_are_split_between_versions_as_the_docs_say(
    tiny_export: Path, tmp_path: Path
) -> None:
    changed = describe(shutil.copytree(tiny_export, tmp_path / "next"), temperature=0.5)
    upstreams, locations = documented("how-to/release.md", "nginx")
    text = re.sub(r"upstream albef \{.*?\n  \}", upstreams, CONFIG.read_text(), flags=re.DOTALL)
    text = re.sub(r"location / \{.*?location /v1/indexes \{.*?\}", locations, text, flags=re.DOTALL)
    text, port = text.replace("10%", "50%"), free_port()
    with running([tiny_export]) as one, running([changed]) as two:
        for before, after in ((8080, port), (8081, one.port), (8082, two.port)):
            text = text.replace(f"127.0.0.1:{before}", f"127.0.0.1:{after}")
        versions = {one.engine.names, two.engine.names}
        (tmp_path / "nginx.conf").write_text(text)
        with process(nginx(tmp_path / "nginx.conf", tmp_path)):
            wait_for(port)
            answers = [
                [ask(port, f"127.0.0.{client}") for _ in range(3)] for client in range(1, 17)
            ]
    assert {name for names in answers for name in names} == versions
    assert all(len(set(names)) == 1 for names in answers), "a client always gets one version"


def ask(port: int, address: str) -> str:
    """Return the model that answers a client at an address of this machine."""
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(transport=transport, timeout=PATIENCE) as client:
        answer = client.post(f"http://127.0.0.1:{port}/v1/embed/texts", json={"texts": ["a dog"]})
    return str(answer.json()["model"])


async def load(until: asyncio.Event) -> collections.Counter[object]:
    answers: collections.Counter[object] = collections.Counter()

    async def client(http: httpx.AsyncClient) -> None:
        while not until.is_set():
            try:
                answer = await http.post("/v1/embed/texts", json={"texts": ["two frogs"]})
                answers[answer.status_code] += 1
            except httpx.TransportError as error:
                answers[repr(error)] += 1

    async with httpx.AsyncClient(base_url="http://127.0.0.1:8080", timeout=60) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return answers


@pytest.mark.slow
@NEEDS_NGINX
def test_servers_are_replaced_with_nothing_dropped(tiny_export: Path, tmp_path: Path) -> None:
    def server(port: int) -> list[str]:
        options = ["--port", str(port), "--drain", "2", "--threads", "1"]
        return [sys.executable, "-m", "albef.cli", "serve", str(tiny_export), *options]

    async def replace(stack: ExitStack, running: dict[int, "subprocess.Popen[bytes]"]) -> object:
        until = asyncio.Event()
        answers = asyncio.create_task(load(until))
        await asyncio.sleep(1)
        try:
            for port in PORTS:
                running[port].send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running[port].wait, PATIENCE) == 0
                running[port] = stack.enter_context(process(server(port)))
                await asyncio.to_thread(wait_for, port)
                await asyncio.sleep(3)  # nginx leaves a server out for two seconds
        finally:
            until.set()
        return await answers

    with ExitStack() as stack:
        running = {port: stack.enter_context(process(server(port))) for port in PORTS}
        for port in PORTS:
            wait_for(port)
        stack.enter_context(process(nginx(CONFIG, tmp_path)))
        wait_for(8080)
        answers = asyncio.run(replace(stack, running))
    assert isinstance(answers, collections.Counter)
    assert set(answers) == {200}, answers


@NEEDS_NGINX
def test_nginx_may_open_a_file_for_each_of_its_connections(tmp_path: Path) -> None:
    limited = ["sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh", *nginx(CONFIG, tmp_path), "-t"]
    checked = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert "open file resource limit" not in checked.stderr
