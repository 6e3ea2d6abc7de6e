"""What is asked, held against what a model was validated on."""

from pathlib import Path

import numpy as np
import pytest

from albef.runtime.sketch import Sketch, read_counts
from albef.validation.drift import divergence


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
    found = counted(now)
    expected = divergence(found.counts["words"], reference)
    assert found.divergence("words", reference) == pytest.approx(expected)
    assert counted(accepted).divergence("words", reference) < 1e-3


def test_counts_are_of_the_last_thousands_and_few_say_nothing() -> None:
    reference = counted(np.full(50, 3)).counts["words"]
    sketch = counted(np.full(99, 3))
    assert np.isnan(sketch.divergence("words", reference))
    for _ in range(9000):
        sketch.count(words=8)
    assert sketch.counts["words"].sum() < 4096
    assert sketch.divergence("words", reference) > 1
    assert np.isnan(sketch.divergence("words", 0 * reference))


def test_an_export_has_the_counts_of_its_validation_data(tiny_export: Path, tmp_path: Path) -> None:
    assert read_counts(tiny_export)["words"].sum() == 14
    assert read_counts(tmp_path) == {}, "left out of a folder that was deployed"
