"""A training is killed at a random moment, or fills its disk, and finds its states good, damaged,
unreadable or old, and a mirror that is good, ahead, behind or hung: what it goes on from, and what
it ends with."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from albef.io import file_digest
from albef.training import state as states
from albef.training.state import EPOCHS, KEPT, STATES
from tests.chaos import victim
from tests.chaos.conftest import SEED, half
from tests.data import toy
from tests.pipelines.states import step_of
from tests.training.test_loop import Killed, curves, dying

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[2]
DELAYS = {"good": 0.0, "ahead": 0.0, "slow": 0.1, "hung": 1e6}
"""Mirrors, and the seconds that a copy to each takes; of one that hangs no copy ends."""
LOCAL = ("good", "torn", "EIO", "EACCES", "stale", "full")
Whole = tuple[dict[str, torch.Tensor], set[str], dict[str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    toy.write(folder, [toy.record(i) for i in range(50)])
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The weights of a training that nothing befell, its kept epochs by name, and its curves."""
    folder = tmp_path_factory.mktemp("whole")
    weights = victim.train(data, folder / "here", folder / "mirror")
    return weights, {path.name for path in (folder / "here").glob(EPOCHS)}, curves(folder / "here")


def intact(folder: Path, pattern: str = STATES) -> list[Path]:
    """The files of a folder whose content is as their names say."""
    return [p for p in folder.glob(pattern) if file_digest(p)[:16] == p.stem.rpartition("-")[2]]


def killed(
    data: Path, here: Path, mirror: Path, delay: float, full: bool, rng: random.Random
) -> Path:
    """Kill a training in the midst, which may find its disk ``full`` before that; a folder with two
    states of before."""
    command = [sys.executable, "-m", victim.__name__, str(data), str(here), str(mirror), str(delay)]
    process = subprocess.Popen(command, cwd=ROOT)
    old = here.with_name("old")
    old.mkdir()
    last = rng.randrange(8, 30)
    while process.poll() is None:
        time.sleep(0.005)
        for path in here.glob(STATES) if here.exists() else ():
            if step_of(path) >= last:
                if full:  # the kernel writes no file further than to the middle of a state
                    half = path.stat().st_size // 2
                    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (half, half))
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                process.wait()
                return old
            if len(list(old.iterdir())) < 2:
                with contextlib.suppress(OSError):  # it was pruned just now, or is there already
                    os.link(path, old / path.name)
    raise AssertionError("it ended before it was killed")


def unreadable(number: int, name: str) -> Callable[[Path], str]:
    """A digest of files that fails for one of them."""

    def digest(path: Path) -> str:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return file_digest(path)

    return digest


@pytest.mark.parametrize(("local", "copies"), half(LOCAL, DELAYS))
def test_it_resumes_from_the_best_copy_and_ends_with_the_same_bytes(
    data: Path,
    whole: Whole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    local: str,
    copies: str,
) -> None:
    rng = random.Random(f"{SEED} {local} {copies}")
    here, mirror = tmp_path / "here", tmp_path / "mirror"
    old = killed(data, here, mirror, DELAYS[copies], local == "full", rng)
    if copies == "ahead":  # another machine went on meanwhile
        there = tmp_path / "there"
        last = max(map(step_of, intact(here))) + rng.randrange(1, 4)
        with pytest.raises(Killed):
            victim.train(data, there, mirror, dying(last + 1))
    newest = max(intact(here))
    if local == "torn":
        content = newest.read_bytes()
        newest.write_bytes(content[: rng.randrange(len(content))])
    if local == "stale":
        for path in here.glob(STATES):
            path.unlink()
        for path in old.iterdir():
            shutil.copy(path, here)
    if local in ("EIO", "EACCES"):
        before = {path.name: path.read_bytes() for path in here.glob("state-*")}
        with monkeypatch.context() as patch:
            patch.setattr(states, "file_digest", unreadable(getattr(errno, local), newest.name))
            if copies != "ahead":
                with pytest.raises(OSError, match="cannot read"):
                    victim.train(data, here, mirror)
                assert {path.name: path.read_bytes() for path in here.glob("state-*")} == before
    best = max(map(step_of, intact(here) + intact(mirror / "states")))
    steps: list[int] = []
    weights = victim.train(data, here, mirror, lambda step, total, means: steps.append(step))
    assert steps[0] == best + 1 > 1
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[0].items())
    assert curves(here) == whole[2]
    for folder in (here, mirror / "states"):
        assert {path.name for path in intact(folder, EPOCHS)} == whole[1]
        assert len(intact(folder)) == KEPT
    usual = {"lock", "curves", "log.jsonl", *whole[1], *(path.name for path in intact(here))}
    assert {name.suffix for name in here.iterdir() if name.name not in usual} <= {".torn"}
    assert len(list((mirror / "states").iterdir())) == KEPT + len(whole[1])
