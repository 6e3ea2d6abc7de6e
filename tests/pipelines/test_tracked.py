"""Trackers of a fine-tuned and evaluated run, and a run without them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from albef.trackers import EXPERIMENT
from tests.pipelines.test_training import ROOT, step, values, work


@pytest.mark.slow
def test_training_and_evaluation_are_one_run_of_a_tracker(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv(EXPERIMENT, raising=False)
    shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
    work(tmp_path, values(runtime__trackers=["tensorboard"]))
    monkeypatch.chdir(tmp_path)
    step("search", "retrieval")
    for name in ("finetune", "evaluate"):
        step(name, "retrieval").write_record(0.0)
    folders = list(Path("products/trackers/tensorboard").iterdir())
    assert [folder.name for folder in folders] == ["finetune@retrieval"]
    events = EventAccumulator(str(folders[0])).Reload()
    metrics = json.loads(Path("products/metrics/retrieval.json").read_text())
    final = events.Scalars("test/r_mean")[-1].value
    assert final == pytest.approx(metrics["test"]["r_mean"], rel=1e-6)
    record = json.loads(Path("products/runs/finetune@retrieval.json").read_text())
    assert record["trackers"] == {"tensorboard": str(folders[0])}
    assert events.Scalars("train/loss")


def test_a_stage_imports_no_library_that_few_runs_use() -> None:
    code = (
        "import sys, pipelines.search, pipelines.finetune, pipelines.evaluate, pipelines.export\n"
        "unused = ('peft', 'timm', 'transformers.models', 'wandb', 'mlflow', 'tensorboard')\n"
        "print([name for name in sys.modules if name.startswith(unused)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
