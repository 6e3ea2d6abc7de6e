"""Metrics of classes on a table written by hand."""

from typing import Any

import pytest

from albef.metrics import accuracy

TABLE: dict[str, list[Any]] = {
    "key": ["a", "b", "b", "c", "d"],
    "sentence": ["s", "s", "t", "u", "v"],
    "answer": ["x", "x", "y", "y", "y"],
    "predicted": ["x", "y", "y", "y", "y"],
    "probabilities": [[0.2, 0.3, 0.5]] * 5,
}


def test_score_and_chance_by_hand() -> None:
    score = accuracy.score(TABLE)
    assert score == {"accuracy": 80, "accuracy_x": 50, "accuracy_y": 100}
    assert accuracy.chance(TABLE) == dict.fromkeys(score, pytest.approx(100 / 3))


def test_each_row_is_right_or_wrong() -> None:
    examples = accuracy.examples(TABLE)
    assert examples.scores == [1, 0, 1, 1, 1]
    assert examples.pictures == ("key",)
    two = TABLE | {"first": TABLE["key"], "second": TABLE["key"]}
    assert accuracy.examples(two).pictures == ("first", "second")
