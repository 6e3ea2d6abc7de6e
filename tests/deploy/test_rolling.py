"""Two servers behind nginx are replaced one after the other under load, and nothing is dropped."""

import asyncio
import collections
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving.running import PATIENCE, wait_until

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
PORTS = (8081, 8082)
CLIENTS = 8


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
@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
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
        nginx = ["nginx", "-c", str(CONFIG), "-p", str(tmp_path), "-e", "stderr"]
        nginx += ["-g", "master_process off;"]  # Its workers would outlive a killed master.
        stack.enter_context(process(nginx))
        wait_for(8080)
        answers = asyncio.run(replace(stack, running))
    assert isinstance(answers, collections.Counter)
    assert set(answers) == {200}, answers
