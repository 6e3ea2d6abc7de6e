import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import albef
from albef.data.record import Record
from albef.export.verify import VerificationError
from albef.ingest.shard_writer import write
from albef.models.weights import CheckpointError
from albef.runtime.manifest import NAME, Onnx, read
from pipelines.export import RunExport, _sketch, check, run
from pipelines.stage import Stage
from tests.conftest import CAPTIONS, tiny_config, tiny_validation


@pytest.fixture
def project(
    tmp_path: Path, tiny_checkpoint: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with what the stage reads."""
    shutil.copytree(tiny_checkpoint, tmp_path / "products/models/retrieval")
    rng = np.random.default_rng(0)
    records = [
        Record(f"k{i}", pictures[i % 6], (" ".join(rng.permutation(CAPTIONS[i % 4].split())),), i,
               "test", "made")
        for i in range(24)
    ]  # fmt: skip
    records += tiny_validation("retrieval", pictures)
    write(tmp_path / "products/data/scenes", "scenes", records, shard_mb=1, licences=[], sources=[])
    _set(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _set(folder: Path, tolerance: float = 1e-3) -> None:
    own: dict[str, Any] = {"dataset": "scenes", "split": "test", "tolerance": tolerance}
    own["precisions"] = {"float32": 0.3, "int8": 100.0}
    params: dict[str, Any] = {
        "seed": 1,
        "paths": {"root": "products", "models": "products/models"},
        "runtime": {"device": "cpu", "threads": 2, "workers": 0},
        "tasks": {"retrieval": tiny_config().model_dump()},
        "export": {"runs": {"retrieval": own}},
    }
    YAML(typ="safe").dump(params, folder / "params.yaml")


@pytest.fixture
def _written(tiny_export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are copied, because to write one takes seconds."""

    def copy(_graphs: object, folder: Path, *_: object) -> Onnx:
        shutil.copytree(tiny_export / "float32", folder / "float32")
        return read(tiny_export).onnx

    monkeypatch.setattr("albef.export.folder.write_graphs", copy)


@pytest.mark.usefixtures("_written")
def test_the_stage_writes_the_export_and_its_metrics(project: Path) -> None:
    stage = Stage("export", "retrieval")
    run(stage)
    folder = project / "products/exports/retrieval"
    assert [path.name for path in folder.parent.iterdir()] == ["retrieval"]
    listed = {*read(folder).files, NAME}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == listed
    assert 0 < stage.record["largest_difference"] < 1e-4
    assert len(stage.record["differences"]["matcher"]) >= 4
    metrics = json.loads((project / "products/metrics/exports/retrieval.json").read_text())
    assert metrics["torch"] == pytest.approx(metrics["float32"], abs=0.3)
    assert set(metrics["torch"]) == set(metrics["int8"]) > {"r_mean", "itc_r_mean", "tr@1"}
    assert metrics["bytes"]["int8"] < metrics["bytes"]["float32"]
    told = metrics["calibration"]
    assert (told["answers"], told["temperature"]) == (48, 1.0)
    assert told["ece"] == told["ece_before"] > 0
    assert told["coverage"][0]["answered"] == 100


@pytest.mark.slow
def test_exported_twice_gives_equal_bytes(project: Path, tiny_export: Path) -> None:
    """In another process and place, and with other hashes."""
    root = str(Path(albef.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.export", "retrieval"],
        # A temporary folder of its own has a device slot of its own: it waits for nobody.
        env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "7", "TMPDIR": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 2  # nothing of the exporter's own log
    assert done.stderr.startswith("r_mean of 24 records of test in scenes: torch ")
    folder = project / "products/exports/retrieval"
    for name in (*read(folder).files, NAME):
        assert (folder / name).read_bytes() == (tiny_export / name).read_bytes(), name


def test_int8_without_validation_records_is_a_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split = {"test": 24}
    monkeypatch.setattr("pipelines.export.describe", lambda folder: {"splits": write_split})
    settings = RunExport(dataset="scenes")
    stage = Stage("export", "retrieval")
    with pytest.raises(ValueError, match="split val of dataset scenes"):
        _sketch(stage, settings, None)  # type: ignore[arg-type]
    write_split["val"] = 14  # all of which are evaluated
    with pytest.raises(ValueError, match=r"export\.runs\.retrieval\.precisions"):
        _sketch(stage, settings.model_copy(update={"split": "val"}), None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_written")
def test_above_the_tolerance_it_refuses_and_leaves_nothing(project: Path) -> None:
    _set(project, tolerance=1e-12)
    with pytest.raises(VerificationError) as caught:
        run(Stage("export", "retrieval"))
    found = re.search(r"r differs from torch by (\S+) .*`tolerance`", str(caught.value))
    assert found
    assert float(found[1]) < 1e-3
    assert list((project / "products/exports").iterdir()) == []


def test_a_precision_that_loses_too_much_is_refused() -> None:
    told = {"torch": 80.0, "float32": 79.9, "int8": 77.5}
    check("accuracy", told, {"float32": 0.3, "int8": 2.5})
    with pytest.raises(VerificationError, match=r"int8 loses 2\.50 points of accuracy"):
        check("accuracy", told, {"float32": 0.3, "int8": 2.0})
    with pytest.raises(VerificationError, match="float32 loses nan points"):
        check("accuracy", {"torch": 80.0, "float32": float("nan")}, {"float32": 0.3})


def test_untrained_run_is_a_sentence(project: Path) -> None:
    shutil.rmtree("products/models/retrieval")
    with pytest.raises(CheckpointError, match="products/models/retrieval is not a checkpoint"):
        run(Stage("export", "retrieval"))
