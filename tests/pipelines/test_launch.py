"""A stage in several processes: how they are started, stopped, and what is told when one dies."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from albef.config import ParamsError
from albef.io import file_digest
from albef.training.state import KEPT
from pipelines.launch import launch
from pipelines.stage import RANKS, Stage
from tests.conftest import Bucket
from tests.pipelines.states import saved as saved_states
from tests.pipelines.states import wait
from tests.pipelines.test_training import ROOT, values, work

WEIGHTS = Path("products/models/pretrained/model.safetensors")
TWO: dict[str, Any] = {
    "runtime__processes": 2,
    "runtime__checkpoint_every": 10,
    "pretrain__epochs": 16,
    "pretrain__micro_batch_size": 16,
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


def test_a_launcher_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for command, message in (
        ("nosuchcommand {processes}", "'nosuchcommand {processes}': command not found"),
        ("torchrun {nodes}", r"is not a command with {processes} in it: 'nodes'"),
        ("torchrun '{processes}", "is not a command .* No closing quotation"),
        ("", "command not found"),
        ("ray", r"needs the extra ray: `pip install '\.\[ray\]'`"),
    ):
        work(tmp_path, values(runtime__processes=2, runtime__launch=command))
        with pytest.raises(ParamsError, match=message):
            launch(Stage("pretrain", ""))


def test_the_end_of_a_process_is_reported_as_what_it_did(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed = (
        "torchrun --standalone --nproc-per-node {processes} --no-python "
        "sh -c 'test $RANK = 0 && sleep 60; kill -9 $$$$'"
    )
    end = json.dumps({"code": 2, "message": "wrong value", "lost": False})
    refused = f"sh -c 'echo $0 > ${RANKS}/rank-00000.json; exit 1' '{end}'"
    for command, stage, kind, message in (
        (killed, "pretrain", OSError, "process 1 died (SIGKILL); run the stage again to resume"),
        ("sh -c 'exit 1'", "evaluate", OSError, "a process died (see above)"),
        (refused.replace("{", "{{").replace("}", "}}"), "pretrain", ValueError, "wrong value"),
    ):
        work(tmp_path, values(runtime__processes=2, runtime__launch=command))
        with pytest.raises(kind, match=re.escape(message)):
            launch(Stage(stage, ""))
        assert not capfd.readouterr().err, "the launcher has nothing to say"
    assert not list(Path("scratch/albef").iterdir())


def test_one_process_is_not_launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(tmp_path, values())
    assert not launch(Stage("pretrain", ""))
    monkeypatch.setenv("RANK", "1")  # nor is one that a launcher has started
    work(tmp_path, values(runtime__processes=2))
    assert not launch(Stage("pretrain", ""))


@pytest.fixture(scope="module")
def prepared(validated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with validated data, in which two processes are asked for."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(validated, folder, dirs_exist_ok=True)
    work(folder, values(**TWO))
    return folder


def start(name: str, key: str = "", **runtime: Any) -> subprocess.Popen[str]:
    environment = {f"ALBEF_RUNTIME__{name.upper()}": str(value) for name, value in runtime.items()}
    return subprocess.Popen(
        [sys.executable, "-m", f"pipelines.{name}", *([key] if key else [])],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    told = process.communicate(timeout=600)[1]
    assert "Traceback" not in told
    assert "torch.distributed" not in told
    return told


def ranks(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The launched processes by rank, once they train."""
    wait(process, saved_states)
    found = psutil.Process(process.pid).children(recursive=True)
    return {p.environ()["RANK"]: p for p in found if "RANK" in p.environ()}


def gone(processes: Iterator[psutil.Process]) -> bool:
    return not psutil.wait_procs(list(processes), timeout=30)[1]


@pytest.mark.slow
def test_two_processes_survive_what_befalls_them(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed, all are asked to stop, the stage is killed: the same bytes come of it."""
    monkeypatch.chdir(prepared)
    whole = start("pretrain", scratch="elsewhere")
    ended(whole)
    assert whole.returncode == 0
    expected = file_digest(WEIGHTS)
    curves = file_digest(Path("products/curves/pretrained/plots/metrics/train/loss.tsv"))
    record = json.loads(Path("products/runs/pretrain.json").read_text())
    assert record["steps"] == 112
    assert record["core_hours"] == pytest.approx(record["cpu_seconds"] / 3600, abs=1e-4)
    assert not list(Path("elsewhere/albef").iterdir())

    killed = start("pretrain")
    ranks(killed)["1"].kill()
    told = ended(killed)
    assert killed.returncode == os.EX_IOERR
    assert told.splitlines()[-1].startswith("pretrain: process 1 died (SIGKILL);")

    asked = start("pretrain")
    family = ranks(asked)
    assert asked.stderr is not None
    list(itertools.takewhile(lambda line: "resuming at step" not in line, asked.stderr))
    asked.send_signal(signal.SIGTERM)
    told = ended(asked)
    assert asked.returncode == 130
    assert "of 112, which is saved" in told.splitlines()[-1]
    assert gone(iter(family.values()))

    orphaned = start("pretrain")
    family = ranks(orphaned)
    for process in (*family.values(), psutil.Process(orphaned.pid)):
        process.kill()
    orphaned.communicate()
    last_one = start("pretrain")
    told = ended(last_one)
    assert last_one.returncode == 0, told
    assert "resuming at step" in told
    assert file_digest(WEIGHTS) == expected
    loss = Path("products/curves/pretrained/plots/metrics/train/loss.tsv")
    assert file_digest(loss) == curves


@pytest.mark.slow
def test_a_mirror_replaces_a_lost_machine(
    prepared: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, then everything but the bucket is gone: the same bytes come of it."""
    monkeypatch.chdir(prepared)
    work(prepared, values(**TWO))
    whole = start("pretrain", scratch="elsewhere", processes=1)
    ended(whole)
    expected = file_digest(WEIGHTS)
    settings = {"processes": 1, "mirror": bucket.url}
    asked = start("pretrain", **settings)
    ranks(asked)
    asked.send_signal(signal.SIGTERM)
    ended(asked)
    assert asked.returncode == 130
    assert len(saved_states(str(bucket.folder))) == KEPT
    again = start("pretrain", **settings, scratch="a new machine")
    told = ended(again)
    assert again.returncode == 0, told
    assert "is fetched from the mirror" in told
    assert "resuming at step" in told
    assert file_digest(WEIGHTS) == expected
    assert not list(bucket.folder.rglob("*.pt"))  # the training is done
