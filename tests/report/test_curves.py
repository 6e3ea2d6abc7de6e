"""Curves from a training's folder."""

from pathlib import Path

from albef.report import curves
from albef.training.tracking import Tracker


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
