"""An ingest of a list of addresses that is killed at any moment ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ingest.download.server import Server
from tests.ingest.download.test_client import LIMITS
from tests.pipelines.test_ingest import ROOT, contents, params

ROWS = 1500
COMMAND = [sys.executable, "-m", "pipelines.ingest", "toy"]


def prepare(here: Path, server: Server) -> None:
    here.mkdir()
    paths = [f"status/404/{i}" if i % 10 == 3 else f"ok/{i}" for i in range(ROWS)]
    lines = [f"number {i}\t{server.url(path)}\n" for i, path in enumerate(paths)]
    (here / "list.tsv").write_text("".join(lines))
    source = {
        "kind": "urls", "files": ["list.tsv"], "format": "tsv", "header": ["caption", "url"],
        "url": "url", "caption": "caption", "keep": [], "split": "train",
        "download": LIMITS.model_dump(),
    }  # fmt: skip
    values = params(here, {"list": source})
    values["ingest"] |= {"heldout": ["toy"], "min_yield": 0.0}
    (here / "params.yaml").write_text(json.dumps(values))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_kills_change_no_byte_and_nothing_is_asked_for_twice(tmp_path: Path) -> None:
    with Server() as server:
        prepare(tmp_path / "whole", server)
        subprocess.run(COMMAND, cwd=tmp_path / "whole", env=environment(), check=True)
        first = server.asked.copy()
        assert set(first.values()) == {1}
        server.asked.clear()
        prepare(tmp_path / "killed", server)
        server.slow_s = 0.005
        rng = random.Random(0)
        kills = 0
        while True:
            run = subprocess.Popen(COMMAND, cwd=tmp_path / "killed", env=environment())
            before, until = sum(server.asked.values()), rng.randint(1, ROWS // 4)
            while run.poll() is None and sum(server.asked.values()) - before < until:
                time.sleep(0.01)
            time.sleep(rng.random() / 2)
            run.send_signal(signal.SIGKILL)
            if run.wait() == 0:
                break
            kills += 1
            assert kills < 100
        assert kills > 2
        twice = sum(count - 1 for count in server.asked.values())
        assert twice <= kills * LIMITS.per_host, "only what was on its way at a kill"
    whole, killed = (tmp_path / name / "products" for name in ("whole", "killed"))
    assert contents(killed / "data") == contents(whole / "data")
    assert contents(killed / "quarantine") == contents(whole / "quarantine")
