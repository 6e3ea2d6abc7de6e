"""The shipped configuration of nginx, before a real server, keeps what a bare server does not."""

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.deploy.test_rolling import process, wait_for
from tests.serving.running import PATIENCE, error, running, wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = (DEPLOY / "nginx.conf").read_text()
FORM = "Content-Type: multipart/form-data; boundary=x"
SLOW = f"POST /v1/match HTTP/1.1\r\nHost: a\r\n{FORM}\r\nContent-Length: 99\r\n\r\n".encode()


@contextlib.contextmanager
def proxied(export: Path, folder: Path, **changed: str) -> Iterator[int]:
    """nginx before a server, with values of the configuration ``changed``; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running([export]) as server:
        text = re.sub("127.0.0.1:808[12]", f"127.0.0.1:{server.port}", CONFIG)
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
        for directive, value in changed.items():
            text, count = re.subn(rf"(?m)^( *{directive}) [^;]*;", rf"\1 {value};", text)
            assert count == 1
        (folder / "nginx.conf").write_text(text)
        command = ["nginx", "-c", f"{folder / 'nginx.conf'}", "-p", f"{folder}", "-e", "stderr"]
        command += ["-g", "master_process off;"]  # Its workers would outlive a killed master.
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with process(command):
            wait_for(port)
            yield port


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_bounds_what_a_bare_server_does_not(tiny_export: Path, tmp_path: Path) -> None:
    changed = {"client_header_timeout": "1s", "limit_conn": "connections 1"}
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
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(99) == b""
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(SLOW)  # the body does not come
            wait_until(lambda: client.get("/v1/model").status_code == 429)
            busy = client.get("/v1/model")
            assert error(busy) == (429, "busy")
            assert busy.headers["retry-after"] == "1"


def test_the_containers_run_the_same_configuration() -> None:
    compose = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    program = compose["services"]["nginx"]["command"][2]
    replaced = re.findall(r"s/([^/]+)/([^/]+)/", program)
    assert [new for _, new in replaced] == ["first:8080", "second:8080", "listen "]
    assert all(CONFIG.count(old) == 1 for old, _ in replaced)
    assert compose["configs"]["nginx"]["file"] == "nginx.conf"
