"""Two clones with one scratch run the same stage in several processes: one is killed, interrupted,
paused or ends first, at a moment of its own; the other ends with its products."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from albef.io import file_digest
from tests.chaos.conftest import SEED, half
from tests.chaos.test_flow import family
from tests.pipelines.conftest import pretrained as pretrained
from tests.pipelines.conftest import validated as validated
from tests.pipelines.states import saved
from tests.pipelines.test_launch import TWO
from tests.pipelines.test_search import searched
from tests.pipelines.test_training import start, values, work

pytestmark = pytest.mark.chaos
WEIGHTS = Path("products/models/pretrained/model.safetensors")
TRIALS = Path("products/search/retrieval/trials.json")
FATES = {"killed": signal.SIGKILL, "orphaned": signal.SIGKILL, "interrupted": signal.SIGTERM}
"""What ends a clone: all of its processes, or the first alone."""


def clone(pretrained: Path, folder: Path, name: str, seed: int = 0) -> Path:
    """A clone with the products of the stages before, and scratch in common with the others."""
    path = folder / name
    shutil.copytree(pretrained / "products", path / "products")
    if stage_of(name) == "pretrain":
        params = values(**TWO | {"pretrain__epochs": 6})
    else:
        params = searched()
        params["search"] |= {"trials": 3}
    params["runtime"] |= {"checkpoint_every": 4, "scratch": str(folder / "scratch")}
    params["seed"] += seed
    work(path, params)
    shutil.rmtree(path / product(name).parent, ignore_errors=True)
    return path


def stage_of(name: str) -> str:
    return name.split("-")[0]


def product(name: str) -> Path:
    return WEIGHTS if stage_of(name) == "pretrain" else TRIALS


def begin(path: Path) -> "subprocess.Popen[str]":
    stage = stage_of(path.name)
    return start(path, *((stage,) if stage == "pretrain" else (stage, "retrieval")))


def end(path: Path, process: "subprocess.Popen[str]", other: "subprocess.Popen[str]") -> str:
    """What a clone's stage said that is not touched: it ends well, or was refused because the other
    one was at work, and does so then."""
    said = process.communicate(timeout=600)[1]
    for _ in range(60):  # processes of one that was killed end after a while
        assert "Traceback" not in said, f"CHAOS_SEED={SEED} {path.name}: {said}"
        if process.returncode != 2 or "; wait for it or stop it" not in said:
            break
        other.wait()
        time.sleep(1)
        process = begin(path)
        said = process.communicate(timeout=600)[1]
    shown = f"CHAOS_SEED={SEED} {path.name}: {said}"
    assert process.returncode == 0, f"{process.returncode} {shown}"
    assert (path / product(path.name)).exists(), shown
    return said


@pytest.fixture(scope="module")
def expected(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the weights of a training in two processes that nothing befell."""
    path = clone(pretrained, tmp_path_factory.mktemp("whole"), "pretrain-whole")
    process = begin(path)
    end(path, process, process)
    return file_digest(path / WEIGHTS)


@pytest.mark.parametrize(
    ("stage", "fate"), half(("pretrain", "search"), (*FATES, "paused", "finished"))
)
def test_if_one_clone_fails_the_other_ends_with_its_artifacts(
    pretrained: Path, expected: str, tmp_path: Path, stage: str, fate: str
) -> None:
    rng = random.Random(f"{SEED} {stage} {fate}")
    apart = rng.randrange(2)  # of another seed, the second one has a folder of its own
    paths = [clone(pretrained, tmp_path, f"{stage}-{i}", seed=i * apart) for i in range(2)]
    scratch = tmp_path / "scratch"
    processes = [begin(paths[0])]
    until = time.monotonic() + rng.uniform(0, 20)
    while time.monotonic() < until and len(saved(str(scratch))) < rng.choice([1, 2, 2]):
        time.sleep(0.05)
    processes.append(begin(paths[1]))
    hit = rng.randrange(2)
    if fate in FATES:
        time.sleep(rng.uniform(0, 15))
        for process in family(processes[hit]) if fate == "killed" else [processes[hit]]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(FATES[fate])
        said = processes[hit].communicate(timeout=600)[1]
        assert "Traceback" not in said
        processes[hit] = processes[1 - hit]  # nobody is left to wait for
    if fate == "paused":  # one after the other, while the others wait for it or go on
        time.sleep(rng.uniform(0, 10))
        for process in family(processes[hit]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0, 3))
                process.send_signal(signal.SIGCONT)
    whole = [1 - hit] if fate in FATES else [0, 1]
    for i in whole:
        end(paths[i], processes[i], processes[i - 1])
    for i in {0, 1} - set(whole):  # run again
        process = begin(paths[i])
        end(paths[i], process, process)
    for i, path in enumerate(paths):
        if stage == "search":
            trials = json.loads((path / TRIALS).read_text())["trials"]
            assert [trial["state"] for trial in trials] == ["complete"] * 3
        elif not (i and apart):
            assert file_digest(path / WEIGHTS) == expected
    assert not [path.name for path in scratch.rglob("*/") if path.parent.name == "albef"]
