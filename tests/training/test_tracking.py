"""Warnings of a training that learns nothing. Curves and log are tested with the loop."""

import logging

import pytest

from albef.training.tracking import LONG, ChanceWatch, at_chance


def test_a_loss_at_chance_for_long_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = ChanceWatch({"itm": 0.6365})
    with caplog.at_level(logging.WARNING):
        for point in range(LONG - 1):
            watch.point(point, {"itm": 0.64, "mlm": 5.0})
        watch.point(LONG, {"itm": 0.5, "mlm": 5.0})  # it has moved: counted anew
        for point in range(LONG - 1):
            watch.point(point, {"itm": 0.633, "mlm": 5.0})
        assert not caplog.records
        for point in range(3):
            watch.point(900 + point, {"itm": 0.633, "mlm": 5.0})
    (record,) = caplog.records
    assert "itm is 0.633 at step 900, as of a model that guesses" in record.getMessage()


def test_a_metric_at_chance() -> None:
    assert at_chance({"accuracy": 27.0}, {"accuracy": 25.0}, "accuracy")
    assert not at_chance({"accuracy": 28.0}, {"accuracy": 25.0}, "accuracy")
    assert not at_chance({"cider": 0.0}, {}, "cider")  # nobody knows what guessing gives
