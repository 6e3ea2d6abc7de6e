"""Metrics of boxes on a table written by hand."""

from typing import Any

import pytest

from albef.metrics import boxes


def test_score_and_chance_by_hand() -> None:
    table: dict[str, list[Any]] = {
        "iou": [1.0, 0.5, 0.2, 0.0],
        "map_iou": [0.6, 0.2, 0.0, 0.0],
        "share": [0.25, 0.25, 0.5, 0.0],
        "type": ["name", "relation", "name", "name"],
    }
    by_type = {"accuracy_name": 100 / 3, "accuracy_relation": 100.0}
    rates = {"accuracy": 50.0, "map_accuracy": 25.0, "map_iou": 20.0, **by_type}
    assert boxes.score(table) == pytest.approx(rates)
    assert boxes.chance(table) == dict.fromkeys(("accuracy", *by_type), 25.0)
    table["type"] = [""] * 4
    assert list(boxes.score(table)) == ["accuracy", "map_accuracy", "map_iou"]
