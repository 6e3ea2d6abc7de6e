"""What is asked, held against what a model was validated on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from albef.runtime import manifest
from albef.runtime.manifest import ExportError
from albef.runtime.sketch import NAME, Sketch, read_counts
from albef.validation.drift import divergence, shift


def counted(values: "np.ndarray") -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.count(words=float(value))
    return sketch


def test_drift_is_what_validation_measures() -> None:
    rng = np.random.default_rng(0)
    accepted, now = rng.poisson(9, 900), rng.poisson(7, 900)
    reference = counted(accepted).counts["words"]
    assert 0 in reference, "bins that have nothing"
    found, drifted = counted(now), counted(now).drift("words", reference)
    assert drifted.divergence == pytest.approx(divergence(found.counts["words"], reference))
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    before, after = (np.quantile(each, levels, method="nearest") for each in (accepted, now))
    assert drifted.shift == pytest.approx(shift(after, before))
    same = counted(accepted).drift("words", reference)
    assert max(same) < 1e-3


def test_counts_are_of_the_last_thousands_and_few_say_nothing() -> None:
    reference = counted(np.full(50, 3)).counts["words"]
    sketch = counted(np.full(99, 3))
    assert np.isnan(sketch.drift("words", reference)).all()
    for _ in range(9000):
        sketch.count(words=8)
    assert sketch.counts["words"].sum() < 4096
    assert sketch.drift("words", reference).shift > 1
    assert np.isnan(sketch.drift("words", 0 * reference)).all()


def test_an_export_has_the_counts_of_its_validation_data(tiny_export: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(tiny_export, folder)
    written = manifest.read(folder)
    assert read_counts(folder, written)["words"].sum() == 14
    (folder / NAME).write_text("{}")
    with pytest.raises(ExportError, match="is not the file that was exported"):
        read_counts(folder, written)
    (folder / NAME).unlink()
    assert read_counts(folder, written) == {}, "left out of a folder that was deployed"
