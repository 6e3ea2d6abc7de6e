"""Trackers beside dvclive, with their real files."""

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.layout import Layout, Paths
from albef.trackers import EXPERIMENT, Run, Trackers, training
from tests.conftest import free_port, tiny_task
from tests.data import toy
from tests.training.toy_training import train_toy

VALUES = {"lr": 0.01, "augment": {"flip": True, "crop": [0.5, 1.0]}, "kind": "retrieval"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(EXPERIMENT, "slower")
    layout = Layout(Paths(root=str(tmp_path / "products"), models=str(tmp_path / "models")))
    return training(layout, "finetune@retrieval", 7, VALUES)


class Recorder:
    """A tracker of the user's that fails after some calls."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012
    works = 99

    def __init__(self, run: Run, id: str | None) -> None:
        self.id = id or "new"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if len(self.calls) >= self.works:
            raise ConnectionError("no route to host\nmore")
        self.calls.append((step, dict(values)))

    def finish(self, metrics: Mapping[str, float]) -> None:
        self.calls.append(("finish", dict(metrics)))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    module = types.ModuleType("albef.trackers.recorder")
    module.Tracker = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "albef.trackers.recorder", module)
    monkeypatch.setattr(Recorder, "calls", [])
    monkeypatch.setattr(Recorder, "works", 99)
    return Recorder


def test_a_tracker_that_fails_is_reported_once_and_left_out(
    run: Run, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(recorder, "works", 2)
    trackers = Trackers(["recorder", "no_such_tool"], run, {"recorder": "r1"})
    for step in range(5):
        trackers.log(step, {"lr": 1.0})
    assert trackers.finish({"test/r_mean": 50.0}) == {"recorder": "r1"}
    assert recorder.calls == [(0, {"lr": 1.0}), (1, {"lr": 1.0})]
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2
    assert "recorder cannot be reached (no route to host); the run continues" in warned[1]


def test_a_training_has_the_same_bytes_with_trackers(
    run: Run, recorder: type[Recorder], tmp_path: Path
) -> None:
    toy.write(tmp_path / "toy", [toy.record(i) for i in range(13)])

    def train(folder: str, trackers: Trackers | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        task = tiny_task()
        return train_toy(task, tmp_path / "toy", tmp_path / folder, trackers=trackers)

    tracked = Trackers(["recorder"], run, {})
    one, other = train("a", None), train("b", tracked)
    assert tracked.finish({}) == {"recorder": "new"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = (tmp_path / "b/curves/plots/metrics/lr.tsv").read_text().splitlines()[1:]
    points = [(step, values["lr"]) for step, values in recorder.calls[:-1] if "lr" in values]
    assert [f"{step}\t{lr}" for step, lr in points] == curves


def test_tensorboard_has_the_curves_of_a_resumed_run_once(run: Run) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ids: dict[str, str] = {}
    for steps in ((9, 19, 29), (19, 29, 39)):  # killed after 29, resumed from the checkpoint of 10
        trackers = Trackers(["tensorboard"], run, ids)
        for step in steps:
            trackers.log(step, {"train/loss": step / 10, "val/tr@1": 1.0})
        ids = trackers.finish({"test/r_mean": 50.0})
    events = EventAccumulator(ids["tensorboard"]).Reload()
    assert [point.step for point in events.Scalars("train/loss")] == [9, 19, 29, 39]
    assert events.Scalars("test/r_mean")[-1].value == 50
    (text,) = events.Tensors("values/text_summary")
    assert "| augment.flip | true |" in text.tensor_proto.string_val[0].decode()
    assert Path(ids["tensorboard"]).name == "slower finetune@retrieval"


@pytest.mark.slow
def test_wandb_offline_has_values_curves_and_final_metrics(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom albef.trackers import Run, Trackers\n"
        "run = Run('a run', {'lr': '0.01'}, {'report': '/r'}, Path(sys.argv[1]))\n"
        "trackers = Trackers(['wandb'], run, json.loads(sys.argv[2]))\n"
        "trackers.log(int(sys.argv[3]), {'train/loss': 0.5})\n"
        "print(json.dumps(trackers.finish({'test/r_mean': 50.0})))\n"
    )
    ids = "{}"
    environment = {**os.environ, "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    for step in ("9", "19"):
        command = [sys.executable, "-c", program, str(tmp_path / "w"), ids, step]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        ids = done.stdout.splitlines()[-1]
    files = sorted((tmp_path / "w/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {file.stem for file in files} == {f"run-{json.loads(ids)['wandb']}"}
    contents = b"".join(file.read_bytes() for file in files)
    for text in ("train/loss", "0.5", "links.report", "test/r_mean", "50", "a run", "19"):
        assert text.encode() in contents


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@pytest.fixture
def mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own server on SQLite, of another environment, because it needs older packages."""
    pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    command = os.environ.get("ALBEF_MLFLOW") or shutil.which("mlflow-server")
    if not command:
        pytest.skip("needs MLflow's server: set ALBEF_MLFLOW to the command mlflow that starts it")
    port = free_port()
    options = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1"]
    options += ["--host=127.0.0.1", f"--port={port}", f"--artifacts-destination={tmp_path}"]
    clean = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    clean["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with subprocess.Popen([command, "server", *options], env=clean, start_new_session=True) as it:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        try:
            while it.poll() is None and not answers(port):
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(it.pid, 9)


@pytest.mark.slow
def test_mlflow_continues_a_run_and_registers_a_release(run: Run, mlflow_server: str) -> None:
    from mlflow import MlflowClient

    from albef.trackers.mlflow import register

    many = Run(
        run.name, {**run.values, **{f"v{i}": "x" * 7000 for i in range(150)}}, run.links, run.folder
    )
    ids = Trackers(["mlflow"], many, {}).ids
    trackers = Trackers(["mlflow"], many, ids)
    for step in (9, 19):
        trackers.log(step, {"train/loss": step / 10, "val/tr@1": 1.0})
    assert trackers.finish({"test/r_mean": 50.0}) == ids
    client = MlflowClient()
    found = client.get_run(ids["mlflow"])
    assert found.info.run_name == "slower finetune@retrieval"
    assert found.info.status == "FINISHED"
    assert found.data.params["augment.flip"] == "true"
    assert len(found.data.params) == 155
    assert found.data.tags["albef.report"] == run.links["report"]
    assert found.data.metrics == {"train/loss": 1.9, "val/tr_at_1": 1.0, "test/r_mean": 50.0}
    history = client.get_metric_history(ids["mlflow"], "train/loss")
    assert [(point.step, point.value) for point in history] == [(9, 0.9), (19, 1.9)]

    register("retrieval", "v0.1.0", "prod", {"gate": "passed"}, ids["mlflow"])
    register("retrieval", "v0.2.0", "prod", {"gate": "passed"}, None)
    register("retrieval", "v0.1.0", "prod", {}, None)  # back
    assert len(client.search_model_versions("name = 'retrieval'")) == 2
    holder = client.get_model_version_by_alias("retrieval", "prod")
    assert holder.tags == {"version": "v0.1.0", "gate": "passed"}
    assert holder.run_id == ids["mlflow"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    trackers = Trackers(["mlflow"], run, {})
    trackers.log(9, {"lr": 1.0})
    assert trackers.finish({}) == {}
    assert "mlflow cannot be reached" in caplog.text
