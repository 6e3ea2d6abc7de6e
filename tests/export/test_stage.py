import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import albef
from albef.export.verify import VerificationError
from albef.models.weights import CheckpointError
from albef.runtime.manifest import FILES, NAME
from pipelines.export import run
from pipelines.stage import Stage


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with what the stage reads."""
    shutil.copytree(tiny_checkpoint, tmp_path / "products/models/retrieval")
    _set(tmp_path, opset=23, tolerance=1e-3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _set(folder: Path, opset: int, tolerance: float) -> None:
    (folder / "params.yaml").write_text(
        "seed: 1\n"
        "paths: {root: products, models: products/models}\n"
        "runtime: {device: cpu, processes: 1, launch: torchrun, threads: 2, workers: 0, "
        "scratch: null, mirror: null, recompute: false, checkpoint_every: 1}\n"
        f"export: {{runs: [retrieval], opset: {opset}, tolerance: {tolerance}}}\n"
    )


def test_exported_twice_gives_equal_bytes(project: Path, tiny_export: Path) -> None:
    # In another process and place, and with other hashes, than the export it is compared with.
    root = str(Path(albef.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.export", "retrieval"],
        env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1  # nothing of the exporter's own log
    folder = project / "products/exports/retrieval"
    assert [path.name for path in folder.parent.iterdir()] == ["retrieval"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, NAME])
    for name in (*FILES, NAME):
        assert (folder / name).read_bytes() == (tiny_export / name).read_bytes(), name
    record = json.loads((project / "products/runs/export@retrieval.json").read_text())
    assert 0 < record["largest_difference"] < 1e-4
    assert len(record["differences"]["matcher"]) >= 4
    assert record["bytes"]["matcher.onnx"] == (folder / "matcher.onnx").stat().st_size


def test_above_the_tolerance_it_refuses_and_leaves_nothing(project: Path) -> None:
    _set(project, opset=18, tolerance=1e-12)  # where attention is taken apart
    with pytest.raises(VerificationError) as caught:
        run(Stage("export", "retrieval"))
    found = re.fullmatch(
        r"(\w+) differs from torch by (\S+) at batch \d+ and text length \d+, above "
        r"export\.tolerance 1e-12; nothing was exported",
        str(caught.value),
    )
    assert found
    assert float(found[2]) < 1e-3
    assert list((project / "products/exports").iterdir()) == []


def test_untrained_run_is_a_sentence(project: Path) -> None:
    shutil.rmtree("products/models/retrieval")
    with pytest.raises(CheckpointError, match="products/models/retrieval is no checkpoint"):
        run(Stage("export", "retrieval"))
