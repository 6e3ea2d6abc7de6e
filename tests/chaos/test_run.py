"""The processes of a run are paused, or its clock jumps: in the end, every stage counts as made of
what it read."""

import contextlib
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from albef.config import read_yaml
from tests.chaos.conftest import SEED
from tests.chaos.stages import MONTHS, NEEDS_COMPILER, Shim
from tests.flows.conftest import finished as finished
from tests.flows.conftest import home as home
from tests.flows.conftest import server as server
from tests.flows.toy import Toy

pytestmark = pytest.mark.chaos


@pytest.fixture
def toy(finished: Toy, tmp_path: Path, server: str) -> Toy:
    """A clone in which nothing was made."""
    there = finished.copy(tmp_path / "there")
    there.sh("git add -A && git commit -qm ran")
    there.env["PREFECT_API_URL"] = server
    return there.clone(tmp_path / "here")


def settle(toy: Toy, tmp_path: Path) -> None:
    """Bring what is stale up to date; nothing else comes from making all anew."""
    toy.repro()
    other = toy.copy(tmp_path / "anew")
    for name in ("products", ".dvc/cache"):
        shutil.rmtree(other.path / name)
    (other.path / "dvc.lock").unlink()
    other.repro()
    assert read_yaml(toy.path / "dvc.lock") == read_yaml(other.path / "dvc.lock")


def test_a_run_whose_processes_are_paused_ends_as_usual(toy: Toy, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    for stage in ("ingest", "pretrain", "finetune"):
        toy.do(f"sleep-{stage}", "1")
    run, seen = toy.start("run"), set[int]()
    while run.poll() is None:
        with contextlib.suppress(psutil.Error):
            processes = psutil.Process().children(recursive=True)  # Prefect's server is one
            new = [process for process in processes if process.pid not in seen]
            if new:
                process = rng.choice(new)
                seen.add(process.pid)
                process.send_signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0, 2))
                process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    said, _ = run.communicate()
    assert run.returncode == 0, f"CHAOS_SEED={SEED} {said}"
    assert len(seen) > 10
    settle(toy, tmp_path)


@NEEDS_COMPILER
def test_a_run_whose_clock_jumps_ends_as_usual(toy: Toy, tmp_path: Path) -> None:
    shim = Shim(tmp_path)
    shim.fail(jump_s=MONTHS)
    run = toy.start("run", env=toy.env | shim.environment)
    said, _ = run.communicate()
    assert run.returncode == 0, said
    assert "Traceback" not in said
    settle(toy, tmp_path)
