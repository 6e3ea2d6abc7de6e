"""Metrics of rankings, pairs and classes on tables written by hand."""

from typing import Any

import pytest

from albef.metrics import ranking

RANKED: dict[str, list[Any]] = {
    "query": ["i2t", "i2t", "t2i", "t2i"],
    "rank": [0, 7, 3, 12],
    "rank_itc": [0, 0, 0, 0],
}
PAIRED: dict[str, list[Any]] = {
    "query": ["i2t", "t2i", "t2i", "t2i"],
    "rank": [0, 1, 0, 0],
    "rank_itc": [1, 1, 0, 0],
    "change": ["count", "count", "object", "object"],
}


def test_a_ranking_is_scored_by_its_recalls_in_both_directions() -> None:
    score = ranking.score(RANKED)
    assert [score[f"tr@{k}"] for k in (1, 5, 10)] == [50, 50, 100]
    assert [score[f"ir@{k}"] for k in (1, 5, 10)] == [0, 50, 50]
    assert score["r_mean"] == 50
    assert score["itc_r_mean"] == 100
    examples = ranking.examples(RANKED)
    assert examples.metric == "r_mean"
    assert examples.scores == pytest.approx([1, 1 / 3, 2 / 3, 0])
    chance = ranking.chance(RANKED)
    assert chance["tr@1"] == chance["ir@1"] == 50


def test_a_paired_split_is_scored_by_its_decisions() -> None:
    assert ranking.score(PAIRED) == {
        "accuracy": 75, "accuracy_count": 50, "accuracy_object": 100,
        "itc_accuracy": 50, "itc_accuracy_count": 0, "itc_accuracy_object": 100,
    }  # fmt: skip
    assert set(ranking.chance(PAIRED).values()) == {50}
    assert ranking.examples(PAIRED).scores == [1, 0, 1, 1]
