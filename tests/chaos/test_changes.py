"""Values, artifacts or code of a run change, its processes are paused, or its clock jumps: in the
end, every stage counts as made of what it read."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from albef.config import read_yaml
from flows import values
from tests.chaos.conftest import SEED
from tests.chaos.stages import MONTHS, NEEDS_COMPILER, Shim
from tests.flows.conftest import finished as finished
from tests.flows.conftest import home as home
from tests.flows.conftest import server as server
from tests.flows.toy import Toy

pytestmark = pytest.mark.chaos
READ = ("params.yaml", "code/train.py", "products/data/web/part.txt")
"""What `pretrain` reads."""


def change(toy: Toy) -> None:
    new = ["pretrain.lr=6e-4", "tasks.retrieval.epochs=3"]
    values.override(toy.path / "params.yaml", new)
    toy.checked()
    (toy.path / "code/train.py").write_text("step = 2\n")


@pytest.fixture
def toy(finished: Toy, tmp_path: Path, server: str) -> Toy:
    """A clone in which nothing was made; the repository that it is of has a newer commit."""
    there = finished.copy(tmp_path / "there")
    there.sh("git add -A && git commit -qm ran")
    there.env["PREFECT_API_URL"] = server
    toy = there.clone(tmp_path / "here")
    change(there)
    there.sh("git commit -qam newer")
    return toy


def lock(toy: Toy) -> dict[str, Any]:
    return dict(read_yaml(toy.path / "dvc.lock")["stages"])


def settle(toy: Toy, tmp_path: Path) -> None:
    """Bring what is stale up to date; nothing else comes from making all anew."""
    toy.repro()
    other = toy.copy(tmp_path / "anew")
    for name in ("products", ".dvc/cache"):
        shutil.rmtree(other.path / name)
    (other.path / "dvc.lock").unlink()
    other.repro()
    assert lock(toy) == lock(other)


def edit(toy: Toy) -> None:
    change(toy)
    remove(toy, READ[2])
    (toy.path / READ[2]).write_text("other")


def remove(toy: Toy, *names: str) -> None:
    for name in names:
        (toy.path / name).unlink()


CHANGES: dict[str, Callable[[Toy], object]] = {
    "edited": edit,
    "pulled": lambda toy: toy.sh("git pull -q --ff-only"),
    "deleted": lambda toy: remove(toy, *READ[1:]),
    "without values": lambda toy: remove(toy, READ[0]),
}


ERRORS = {
    "deleted": f"pretrain: {READ[2]}: No such file or directory",
    "without values": "params.yaml does not exist",
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_while_a_stage_reads_it_is_not_taken_for_what_it_read(
    toy: Toy, tmp_path: Path, what: str
) -> None:
    toy.do("sleep-pretrain", "4")
    run = toy.start("run")
    toy.wait_for("pretrain")
    time.sleep(1)
    CHANGES[what](toy)
    said, _ = run.communicate()
    print(what, run.returncode, said)
    assert "Traceback" not in said
    assert ERRORS.get(what, "") in said
    if what != "deleted":  # before `pretrain` read it
        assert "pretrain: done" in said
        assert lock(toy)["pretrain"]["params"]["params.yaml"]["pretrain"]["lr"] == 7e-4
    for name in READ[:2]:  # as the user does, whose file it is
        if not (toy.path / name).exists():
            toy.sh(f"git checkout -q {name}")
    toy.do("sleep-pretrain")
    settle(toy, tmp_path)


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
