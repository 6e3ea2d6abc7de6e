"""The search stage on tiny real trainings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from albef.config import validate
from albef.data.shards import ShardError
from albef.models.weights import load_checkpoint
from albef.tasks import retrieval
from pipelines import trials
from pipelines.stage import Stage
from tests.pipelines.test_training import ROOT, step, values, work

TPE = {"kind": "tpe", "startup_trials": 1, "candidates": 24, "multivariate": False}
NONE = {"kind": "none"}
TRIALS = Path("products/search/retrieval/trials.json")


def searched(**changed: Any) -> dict[str, Any]:
    """Values whose trials have as many epochs as the run."""
    params = values(search={"trials": 2, "epochs": 2, "sampler": TPE, "pruner": NONE}, **changed)
    params["tasks"] = {"retrieval": params["tasks"]["retrieval"] | {"epochs": 2}}
    params["tasks"]["retrieval"] |= {"keep_epochs": [1]}
    return params


@pytest.fixture
def here(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data and a checkpoint to start from."""
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "scratch")
    work(tmp_path, searched())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(TRIALS.read_text())
    return told


def test_a_search_that_is_stopped_ends_with_the_same_trials(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = step("search", "retrieval").record
    told, whole = found(), TRIALS.read_bytes()
    assert record["search"] == told["evidence"]
    assert [trial["start"] for trial in told["trials"]] == [True, False]
    choice = json.loads(Path("products/search/retrieval/choice.json").read_text())
    assert choice == max(told["trials"], key=lambda trial: trial["value"])["params"]
    assert not list(Path("scratch/albef").iterdir())

    # The second epoch of the second trial is cut off, whose first epoch is not trained again.
    trained: list[tuple[str, int]] = []
    fit = trials.fit

    def cut(stage: Stage, *args: Any, on_epoch: Any, label: str, **rest: Any) -> Any:
        def heard(epoch: int, metrics: dict[str, float]) -> bool:
            ends: bool = on_epoch(epoch, metrics)
            trained.append((label[-1], epoch))
            if len(trained) == 4:
                raise KeyboardInterrupt
            return ends

        return fit(stage, *args, on_epoch=heard, label=label, **rest)

    monkeypatch.setattr(trials, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        step("search", "retrieval")
    step("search", "retrieval")
    assert trained[4:] == [("2", 2)]
    assert TRIALS.read_bytes() == whole


def test_a_trial_that_fails_is_recorded(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = searched()
    params["search"] |= {"trials": 4, "epochs": 1, "sampler": {"kind": "random"}}
    # At this rate the loss is NaN or Inf, which the loop itself finds.
    params["tasks"]["retrieval"]["lr"] = {"low": 1e-4, "high": 1e30, "log": True, "start": 3e-4}
    work(here, params)
    step("search", "retrieval")
    told = found()
    failed = [trial for trial in told["trials"] if trial["state"] == "fail"]
    assert failed
    assert told["evidence"]["trials"]["fail"] == len(failed)
    assert "loss is NaN or Inf at step" in failed[0]["error"]
    assert str(here) not in failed[0]["error"]
    assert "failed: loss is NaN or Inf" in caplog.text
    assert json.loads(Path("products/search/retrieval/choice.json").read_text())["lr"] < 1e29
    assert not list(Path("scratch/albef").iterdir())
    ended = [trial for trial in told["trials"] if trial["state"] == "complete"]
    assert [len(trial["values"]) for trial in ended] == [1] * (4 - len(failed))


def test_what_ends_a_search_is_one_error_and_fails_no_trial_once_it_is_mended(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(retrieval.Task, "start", Mock(side_effect=RuntimeError("no such operator")))
        with pytest.raises(ValueError, match=r"2 failed .* RuntimeError: no such operator"):
            step("search", "retrieval")
    assert not Path("products/search/retrieval").exists()
    assert not list(Path("scratch/albef").iterdir()), "it starts anew"

    short = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    with monkeypatch.context() as patch:
        patch.setattr(retrieval.Task, "start", Mock(side_effect=short))
        with pytest.raises(RuntimeError, match="allocate memory"):
            step("search", "retrieval")

    (shard,) = Path("products/data/scenes/shards").iterdir()
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ShardError, match=r"scenes-00000\.tar is missing: run `albef run"):
        step("search", "retrieval")
    shard.write_bytes(content)
    step("search", "retrieval")
    assert found()["evidence"]["trials"] == {"complete": 2, "pruned": 0, "fail": 0}


@pytest.mark.slow
def test_the_rank_of_lora_is_searched_and_adapters_are_published_in_the_weights(here: Path) -> None:
    params = searched()
    params["search"] |= {"sampler": {"kind": "random"}, "epochs": 1}
    rank = {"low": 1, "high": 4, "log": False, "start": 2}
    run = {"lr": 1e-3, "alpha": 0.4, "epochs": 1, "publish": "best", "lora": {"rank": rank}}
    params["tasks"]["retrieval"] |= run
    work(here, params)
    step("search", "retrieval")
    assert [trial["state"] for trial in found()["trials"]] == ["complete"] * 2
    (name,) = json.loads(Path("products/search/retrieval/choice.json").read_text())
    assert name == "lora.rank"
    step("finetune", "retrieval")
    for folder in ("retrieval", "retrieval/epochs/1"):
        checkpoint = load_checkpoint(Path("products/models") / folder)
        config = validate(retrieval.Config, checkpoint.config["values"], where="checkpoint")
        assert isinstance(config.lora.rank, float)
        state = retrieval.Task.restore(config, checkpoint).state_dict()
        before = load_checkpoint(Path("products/models/pretrained")).tensors
        for layer, learns in (("attention.self.query", True), ("intermediate.dense", False)):
            name = f"model.fusion_encoder.layer.0.{layer}.weight"
            assert torch.equal(state[name], before[name]) is not learns
    step("evaluate", "retrieval")


def test_a_run_without_ranges_needs_neither_torch_nor_optuna(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(tmp_path, values())
    monkeypatch.chdir(tmp_path)
    code = (
        "import runpy, sys; sys.argv[1:] = ['vqa']\n"
        "runpy.run_module('pipelines.search', run_name='__main__', alter_sys=True)\n"
        "assert not {'torch', 'optuna', 'pipelines.trials'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert json.loads(Path("products/search/vqa/choice.json").read_text()) == {}
    assert json.loads(Path("products/search/vqa/trials.json").read_text()) == {"trials": []}
