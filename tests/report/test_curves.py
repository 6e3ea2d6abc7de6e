"""Curves from a training's folder and from a reference file."""

from pathlib import Path

import pytest

from albef.report import curves
from albef.training.tracking import Tracker

HEAD = "training,curve,step,value\n"


def test_a_training_reads_as_it_was_tracked_without_what_is_not_finite(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "a", {})
    tracker.log(9, {"train/loss": 2.0, "val/r_mean": 10.0})
    tracker.log(19, {"train/loss": float("nan")})
    tracker.close()
    assert curves.read(tmp_path / "a") == {
        "train/loss": ((9.0, 2.0),),
        "val/r_mean": ((9.0, 10.0),),
    }
    assert curves.read(tmp_path / "none") == {}


def test_a_training_does_not_deviate_from_its_own_reference(tmp_path: Path) -> None:
    long = tuple((float(step), 100.0 / (1 + step)) for step in range(1000))
    own = {"pretrained": {"train/loss": long, "val/r_mean": ((499.0, 1.0), (999.0, 2.0))}}
    path = tmp_path / "reference.csv"
    path.write_text(curves.write_reference(own))
    assert len(path.read_text().splitlines()) <= 1 + 40 + 2
    told = curves.deviations(curves.read_reference(path), own)
    assert {(d.training, d.curve) for d in told} == {
        ("pretrained", "train/loss"),
        ("pretrained", "val/r_mean"),
    }
    assert max(d.share for d in told) < 1e-4  # the file holds five digits


def test_a_deviation_is_where_the_means_are_farthest_apart() -> None:
    reference = {
        "a": {"loss": ((10.0, 4.0), (20.0, 2.0), (30.0, 1.0))},
        "b": {"loss": ((1.0, 1.0),)},
    }
    here = {"a": {"loss": ((5.0, 3.0), (10.0, 5.0), (15.0, 2.5), (18.0, 3.5))}}
    (found,) = curves.deviations(reference, here)
    assert (found.step, found.reference, found.value) == (20.0, 2.0, 3.0)
    assert found.share == 0.25
    assert curves.deviations(reference, {"c": {}}) == []


def test_a_file_that_is_not_a_reference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with pytest.raises(curves.CurveError, match="does not exist; write it with"):
        curves.read_reference(path)
    for text, why in (
        ("\0", "not a file of reference curves"),
        ("step,loss\n1,2\n", "first line must be training,curve,step,value"),
        (HEAD, "there is no row"),
        (HEAD + "a,loss,1,x\n", "not a file of reference curves"),
        (HEAD + "a,loss,1\n", "missing, NaN or Inf"),
        (HEAD + "a,loss,2,1\na,loss,2,1\n", "steps of a loss must ascend"),
    ):
        path.write_text(text)
        with pytest.raises(curves.CurveError, match=why):
            curves.read_reference(path)


def test_the_built_in_runs_reference_can_be_read() -> None:
    path = Path(__file__).parents[2] / "docs" / "curves" / "builtin.csv"
    found = curves.read_reference(path)
    assert set(found) == {"pretrained", "retrieval", "vqa"}
    loss = found["pretrained"]["train/loss"]
    assert loss[-1][1] < loss[0][1] / 2
