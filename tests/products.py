"""A project with all products of a tiny run, made of one another as its stages leave them."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from ruamel.yaml import YAML

from albef.data.record import Record
from albef.ingest import shard_writer
from albef.io import file_digest
from albef.models.weights import load_checkpoint, save_checkpoint
from albef.runtime.manifest import NAME
from albef.search.summary import evidence, rows
from albef.training.tracking import Tracker
from albef.validation.result import Check, DriftResult
from pipelines import evaluate
from pipelines.stage import Stage, write_json
from pipelines.trainer import origin_of
from tests.conftest import CAPTIONS, made_once, tiny_config
from tests.data import toy

ROOT = Path(__file__).parents[1]
EVIL = "a <script>alert(1)</script> dog"
DRIFT: tuple[tuple[str, str, float, float, float, str], ...] = (
    ("accepted", "divergence", 0.21, 0.1, 0.5, "warned"),
    ("evaluation", "divergence", 0.02, 0.1, 0.5, "met"),
)


def params(root: str = "products") -> dict[str, Any]:
    """Values of two data sets, and of a run that searches its rate."""
    values: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    values["runtime"] |= {"device": "cpu", "threads": 1}
    values["evaluate"]["behaviour"]["tests"] = str(ROOT / "behaviour/english.json")
    lr = {"low": 1e-5, "high": 1e-3, "log": True, "start": 1e-4}
    return values | {
        "seed": 1,
        "paths": {"root": root, "models": f"{root}/models"},
        "datasets": {"web": {}, "scenes": {}},
        "pretrain": {"dataset": "web"},
        "tasks": {"retrieval": tiny_config().model_dump() | {"lr": lr}},
        "report": {"examples": 4},
    }


@pytest.fixture(scope="session")
def products(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_export: Path
) -> Path:
    """The project; do not write to it."""

    def make(folder: Path) -> None:
        for code in ("albef", "pipelines"):
            (folder / code).symlink_to(ROOT / code)
        shutil.copy(ROOT / "dvc.yaml", folder)
        (folder / "params.yaml").write_text(json.dumps(params()))
        for name, records in {"web": _web(), "scenes": _scenes()}.items():
            _ingest(name, records)
        _train(Stage("pretrain", ""), "pretraining", "web", tiny_checkpoint)
        _search(Stage("search", "retrieval"))
        _train(Stage("finetune", "retrieval"), "retrieval", "scenes", tiny_checkpoint)
        stage = Stage("evaluate", "retrieval")
        evaluate.run(stage)
        stage.write_record(time.time() - 75)
        _export(Stage("export", "retrieval"), tiny_export)

    return made_once(tmp_path_factory, "products", make)


@pytest.fixture
def project(products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(products, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def _done(stage: Stage, *made: Path) -> None:
    """Leave a run record, as the frame of the stages does."""
    stage.made(*made)
    stage.write_record(time.time() - 75)


def _web() -> list[Record]:
    return [toy.record(i) for i in range(4)]


def _scenes() -> list[Record]:
    def scene(number: int, split: str, **meta: Any) -> Record:
        caption = EVIL if number == 13 else f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
        return toy.record(number, split=split, captions=(caption,), meta=meta)

    changes = ("reversed", "axis", "count", "object")
    return [
        *(scene(i, "train", noise="wrong") for i in range(10, 14)),
        *(scene(i, "val") for i in range(14, 16)),
        *(scene(i, "test", unseen=i % 2 == 0) for i in range(16, 28)),
        *(scene(i, "pairs", pair=i // 2, change=changes[i // 2 % 3]) for i in range(28, 40)),
    ]


def _ingest(name: str, records: list[Record]) -> None:
    stage, listed = Stage("ingest", name), Path(f"{name}.json")
    listed.write_text("[]")
    inputs = {str(listed): file_digest(listed)}
    licence = {
        "what": "pictures", "licence": "CC BY 9", "attribution": "Ann <b>", "url": "http://a"
    }  # fmt: skip
    sources = [{"name": "rows", "kind": "pairs", "seed": 1, "inputs": inputs}]
    folder = stage.layout.data(name)
    described = shard_writer.write(
        folder, name, records, shard_mb=1, licences=[licence], sources=sources
    )
    _done(stage, folder / "dataset.json")
    verdict = {"dataset": name, "digest": described["digest"]}
    check = Check("keys are unique", "e", "records.key", True, 30, 0, 0.0, "", "", ())
    result = {
        "passed": True,
        "checks": [asdict(check)],
        "statistics": {"words of a caption": {"least": 2.0, "median": 6.0, "most": 11.0}},
        "moved": [asdict(DriftResult("vocabulary", "train", *far)) for far in DRIFT],
    }
    write_json(stage.layout.validation(name) / "result.json", verdict | result)
    write_json(stage.layout.verdict(name), verdict)
    _done(Stage("validate", name), stage.layout.verdict(name))


def _train(stage: Stage, kind: str, dataset: str, tiny_checkpoint: Path) -> None:
    layout, name, tiny = stage.layout, stage.key or "pretrained", load_checkpoint(tiny_checkpoint)
    described = json.loads((layout.data(dataset) / "dataset.json").read_text())
    provenance = {"dataset": dataset, "data": described["digest"], "seed": 1}
    init = None
    if stage.key:
        init = load_checkpoint(layout.model("pretrained"))
        provenance |= {"parent": "pretrained", "parent_weights": init.digest}
        _log_curves(layout.curves(name))
    save_checkpoint(
        layout.model(name),
        kind=kind,
        model=tiny.model,
        tensors={n: t + 0.001 * len(name) for n, t in tiny.tensors.items()},
        tokenizer=tiny.tokenizer,
        values=tiny.config["values"],
        provenance=provenance | origin_of(stage, dataset, init),
    )
    _done(stage, layout.model(name) / "model.safetensors")


def _log_curves(folder: Path) -> None:
    tracker = Tracker(folder, {})
    for step in (9, 19):
        losses = {f"train/{name}": 3.0 / step for name in ("loss", "itc", "itm", "mlm")}
        tracker.log(step, losses | {"lr": 1e-3 / step})
        tracker.log(step, {"val/r_mean": 10.0 + step, "val/itc_r_mean": 8.0 + step})
    tracker.log(29, {"train/itc": float("nan")})
    tracker.close()


def _search(stage: Stage) -> None:
    folder = stage.layout.search(stage.key)
    trials = [create_trial(params={"lr": 2e-4}, distributions={"lr": FloatDistribution(1e-5, 1e-3)},
                           value=50.0, intermediate_values={1: 50.0})]  # fmt: skip
    write_json(folder / "choice.json", {"lr": 2e-4})
    found = evidence(trials, {"lr": 2e-4}, "r_mean")
    write_json(folder / "trials.json", {"trials": rows(trials, {"lr": 2e-4}), "evidence": found})
    _done(stage, folder / "choice.json")


def _export(stage: Stage, tiny_export: Path) -> None:
    layout = stage.layout
    trained = load_checkpoint(layout.model(stage.key))
    shutil.copytree(tiny_export, layout.export(stage.key))
    manifest = layout.export(stage.key) / NAME
    origin = trained.config["provenance"] | {"checkpoint": trained.digest}
    exported = {"provenance": origin | {"export_code": stage.code}}
    write_json(manifest, json.loads(manifest.read_text()) | exported)
    scores = {name: {"r_mean": value} for name, value in (("torch", 40.0), ("int8", 39.0))}
    write_json(layout.export_metrics(stage.key), scores | {"bytes": {"int8": 1}})
    _done(stage, manifest, layout.export_metrics(stage.key))
