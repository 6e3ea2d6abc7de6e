"""A server is short of memory, or its processes are paused: it answers all, and then as before."""

import random
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from benchmarks.servers import serve
from tests.chaos.conftest import SEED
from tests.data.toy import picture
from tests.serving.running import PATIENCE

pytestmark = pytest.mark.chaos
MIB = 2**20


class Asked:
    """A server's processes, and requests to it."""

    def __init__(self, port: int, pid: int) -> None:
        server = psutil.Process(pid)
        self.processes = [server, *server.children(recursive=True)]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
        images = [("image", picture(i, size)) for i, size in enumerate([(64, 64), (3000, 3000)])]
        self._requests = [
            {"url": "/v1/embed/texts", "json": {"texts": ["a dog", "two apples"]}},
            {"url": "/v1/embed/texts", "json": {"texts": ["a dog " * 300] * 32}},
            {"url": "/v1/embed/images", "files": images},
            {"url": "/v1/embed/images", "files": [images[1]] * 16},
        ]

    def answers(self) -> list[object]:
        """The answers to requests sent at the same time: a body, or a status of a refusal."""

        def ask(request: dict[str, Any]) -> object:
            try:
                answer = self.client.post(**request)
            except httpx.TransportError as error:
                return type(error).__name__
            if not answer.is_success:
                return answer.status_code
            return np.round(answer.json()["embeddings"], 4).tolist()  # batches differ

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(ask, self._requests * 2))


@pytest.fixture
def asked(tiny_export: Path) -> Iterator[Asked]:
    with serve(tiny_export, "--threads", "1") as served:
        asked = Asked(served.port, served.pid)
        with asked.client:
            yield asked


def test_a_server_short_of_memory_refuses_and_recovers(asked: Asked) -> None:
    rng = random.Random(SEED)
    expected = asked.answers()
    for mib in (0, 1, *rng.choices(range(64), k=4)):
        for process in asked.processes:
            most = process.memory_info().vms + mib * MIB
            process.rlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        short = asked.answers()
        print(mib, [each if isinstance(each, int | str) else 200 for each in short])
        for answer, usual in zip(short, expected, strict=True):
            assert answer in (usual, 422, 503, "RemoteProtocolError", "ReadError"), mib
        for process in asked.processes:
            if process.is_running():  # or it is a decoder that ended
                process.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        assert asked.answers() == expected, mib


def test_a_server_whose_processes_are_paused_answers_later(asked: Asked) -> None:
    expected = asked.answers()
    for process in asked.processes:
        process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answers = pool.submit(asked.answers)
            time.sleep(2)
            process.send_signal(signal.SIGCONT)
            assert answers.result() == expected
