"""What stored predictions are worth: the mean is what the kind itself scores."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from albef.data.record import Record
from albef.data.shards import read_index
from albef.evaluation.behaviour.judging import rates
from albef.metrics.family import family_of
from albef.report import scores
from pipelines.evaluate import predictions_table
from pipelines.params import kinds
from tests.data import toy

CLASSES = {
    "key": ["a", "b", "b"], "sentence": ["s", "s", "t"], "answer": ["x", "y", "y"],
    "predicted": ["x", "x", "y"], "probabilities": [[0.5, 0.5]] * 3,
}  # fmt: skip
PAIRED = {
    "query": ["i2t", "t2i", "t2i"], "key": ["a", "a", "b"], "caption": ["", "one", "two"],
    "rank": [0, 1, 0], "rank_itc": [1, 1, 0], "top": [["one"], ["b", "a"], ["b"]],
    "top_itc": [["one"], ["b", "a"], ["b"]], "change": ["count", "count", "object"],
}  # fmt: skip
TABLES: dict[str, dict[str, list[Any]]] = {
    "retrieval": {
        "query": ["i2t", "i2t", "t2i", "t2i", "t2i"], "key": ["a", "b", "a", "b", "b"],
        "caption": ["", "", "one", "two", "three"], "rank": [0, 7, 3, 12, 0],
        "rank_itc": [0, 0, 0, 0, 0], "top": [["one"], ["two"], ["a"], ["b"], ["b"]],
        "top_itc": [["one"], ["two"], ["a"], ["b"], ["b"]],
    },
    "vqa": {
        "key": ["a", "b", "c"], "question": ["how many?", "what?", "hidden?"],
        "answer": ["Two.", "a dog", "x"], "truths": [["2"], ["cat"], []],
        "annotators": [None, ["dog"] * 2 + ["cat"] * 8, None],
    },
    "entailment": CLASSES,
    "nlvr2": CLASSES,
    "text_assignment": CLASSES | {"first": ["a", "b", "c"], "second": ["d", "e", "f"]},
    "grounding": {
        "key": ["a", "b"], "expression": ["the key", "the dog"], "type": ["name", "name"],
        "iou": [0.5, 0.4], "map_iou": [0.1, 0.1],
    },
}  # fmt: skip


def predicted(kind: str, table: dict[str, list[Any]] | None = None) -> pa.Table:
    """A table as the evaluation of a kind stores it."""
    task = importlib.import_module(f"albef.tasks.{kind}").Task
    return predictions_table(task, {"test": TABLES[kind] if table is None else table}, {})


def scored(table: pa.Table) -> scores.Scores:
    found = scores.from_table(table)
    assert found is not None
    return found


def test_the_mean_is_the_kinds_own_metric() -> None:
    for kind in kinds():
        task: Any = importlib.import_module(f"albef.tasks.{kind}").Task
        found = scored(predicted(kind))
        assert found.mean() == pytest.approx(family_of(task).score(TABLES[kind])[found.metric])


def test_a_paired_ranking_is_scored_by_its_decisions() -> None:
    found = scored(predicted("retrieval", PAIRED))
    assert (found.metric, found.mean()) == ("accuracy", pytest.approx(200 / 3))
    assert found.right.tolist() == [True, False, True]


CASES = {
    "split": ["test"] * 4,
    "test": ["count", "count", "count", "synonym"],
    "expects": ["lower"] * 3 + ["same"],
    "key": ["a", "b", "c", "a"],
    "caption": ["two keys"] * 4,
    "changed": ["three keys"] * 3 + ["2 keys"],
    "score": [0.9] * 4,
    "changed_score": [0.1, 0.2, 0.95, 0.1],
    "accepted": [True] * 4,
    "passed": [True, True, False, False],
}


def test_behaviour_tests_are_scored_as_a_whole_and_each() -> None:
    found = scores.by_metric(pa.table(CASES))
    own = {name: score.mean() for name, score in found.items()}
    told = rates(CASES)
    assert own == {name: pytest.approx(told[name]) for name in ("overall", "count", "synonym")}
    assert next(iter(own)) == "overall"
    assert found["count"].right.tolist() == [True, True, False]
    assert set(found["overall"].table.column_names) >= scores.CASES
    assert list(scores.by_metric(predicted("entailment"))) == ["accuracy"]
    assert scores.by_metric(pa.table({"key": ["a"]})) == {}


def test_what_is_unknown_or_hidden_has_no_scores() -> None:
    assert scores.from_table(pa.table({"key": ["a"], "bleu": [1.0]})) is None
    assert scores.from_table(predicted("vqa").slice(2)) is None
    # Two of three annotators are more than half.
    assert scored(predicted("vqa")).right.tolist() == [True, True]


def _classes(*rows: tuple[str, str]) -> scores.Scores:
    keys, sentences = ([row[i] for row in rows] for i in (0, 1))
    same = ["x"] * len(rows)
    table = {"key": keys, "sentence": sentences, "answer": same, "predicted": same}
    return scored(predicted("entailment", table))


def test_examples_are_shared_where_the_question_and_the_record_are_the_same() -> None:
    before = _classes(("a", "s"), ("a", "t"), ("b", "s"), ("b", "s"))
    after = _classes(("b", "s"), ("a", "t"), ("c", "s"), ("b", "s"))
    own, other = scores.shared_rows(before.example_ids(None), after.example_ids(None))
    assert list(zip(own.tolist(), other.tolist(), strict=True)) == [(1, 1), (2, 0), (3, 3)]
    old, new = (pd.Series({"a": first, "b": 2}) for first in (1, 3))
    own, other = scores.shared_rows(before.example_ids(old), after.example_ids(new))
    assert list(zip(own.tolist(), other.tolist(), strict=True)) == [(2, 0), (3, 3)]
    assert np.array_equal(before.values[own], after.values[other])


def test_a_record_is_known_by_all_that_stands_in_it(tmp_path: Path) -> None:
    def content(name: str, *records: Record) -> int:
        toy.write(tmp_path / name, records)
        return int(scores.contents(read_index(tmp_path / name))["toy-0000"])

    more = (toy.picture(1),)
    first = content("first", toy.record(0, more=more))
    assert content("shifted", toy.record(9, more=more), toy.record(0, more=more)) == first
    changes: list[dict[str, Any]] = [
        {"captions": ("other words",)}, {"image": toy.picture(50)}, {"meta": {"a": "new"}},
        {"split": "test"}, {"more": (toy.picture(2),)},
    ]  # fmt: skip
    for number, changed in enumerate(changes):
        assert content(f"{number}", toy.record(0, **{"more": more, **changed})) != first, changed
