"""What tests of flows share over a session: a Prefect server, and a project that has run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from tests.conftest import free_port, listens, made_once
from tests.flows.toy import Toy


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[str]:
    port = free_port()
    options = ["--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    env = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", *options],
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not listens(port):
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait()


def ask(server: str, what: str, **body: Any) -> Any:
    data = json.dumps({"limit": 200, **body}).encode()
    request = Request(f"{server}/{what}/filter", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=300) as answer:
        return json.load(answer)


def assert_ended(processes: list[psutil.Process], seconds: float = 600) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def last_flow(server: str, place: int = 0) -> dict[str, Any]:
    """The flow run that started last, or ``place`` before it."""
    return dict(ask(server, "flow_runs", sort="START_TIME_DESC")[place])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Toy:
    """A project whose stages ran, by DVC alone; work on copies."""

    def make(folder: Path) -> None:
        toy = Toy.create(folder / "project", home)
        toy.do("lines-web", "one two vier")
        toy.repro()
        toy.started()

    return Toy(made_once(tmp_path_factory, "finished", make) / "project", home)
