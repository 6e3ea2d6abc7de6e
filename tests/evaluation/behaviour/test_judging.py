"""What passes, and how it is counted; and the scores of the kinds that judge."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albef.config import validate
from albef.data.record import Record
from albef.evaluation.behaviour.cases import Case
from albef.evaluation.behaviour.judging import Behaviour, chances, prepare, rates
from albef.evaluation.behaviour.suite import BehaviourConfig, Expectation
from albef.loading.reading import RecaptionedRecords
from tests.conftest import CAPTIONS, tiny_task

ROOT = Path(__file__).parents[3]
CONFIG = validate(
    BehaviourConfig,
    {"tests": str(ROOT / "behaviour/english.json"), "cases": 9, "threshold": 0.5},
    where="tests",
)


def judged(
    scores: Sequence[float], expects: Expectation = "changed", threshold: float = 0.5
) -> dict[str, list[Any]]:
    """A case of two texts, true and changed."""
    case = Case("t", expects, 0, "k", "true", "changed")
    return Behaviour("test", [case], threshold).judge(scores)


PASSED: dict[tuple[Expectation, float, float], bool] = {
    ("changed", 0.9, 0.1): True,
    ("changed", 0.9, 0.5): False,  # still said to be true
    ("changed", 0.1, 0.9): False,  # changed, but the wrong way round
    ("changed", 0.1, 0.0): False,
    ("same", 0.9, 0.5): True,
    ("same", 0.1, 0.2): True,
    ("same", 0.5, 0.49): False,
    ("accepted", 0.1, 0.5): True,
    ("accepted", 0.9, 0.4): False,
    ("accepted", 0.9, math.nan): False,
    ("refused", 0.1, 0.4): True,
    ("refused", 0.9, 0.5): False,
    ("refused", 0.9, math.nan): False,
    ("lower", 0.9, 0.8): True,
    ("lower", 0.9, 0.9): False,
    ("same", math.nan, math.nan): False,
    ("lower", 0.9, math.nan): False,
}


def test_what_passes() -> None:
    for (expects, *scores), passed in PASSED.items():
        assert judged(scores, expects)["passed"] == [passed], (expects, scores)


def test_the_lowest_is_below_every_other_text_of_the_image() -> None:
    expected: list[tuple[str, Expectation]] = [("other", "lowest"), ("third", "lower")]
    cases = [Case(text, expects, 0, "k", "true", text) for text, expects in expected]
    tests = Behaviour("test", cases, 0.5)
    assert tests.pairs == [(0, "true"), (0, "other"), (0, "third")]
    table = tests.judge([0.9, 0.4, 0.3])
    assert table["passed"] == [False, True]
    assert table["least"] == [0.3, 0.4]
    assert table["chance"] == [pytest.approx(1 / 3), 0.5]
    assert tests.judge([0.9, 0.2, 0.3])["passed"] == [True, True]


def test_rates_are_means_by_test_and_over_tests() -> None:
    names: list[tuple[str, Expectation, int]] = [
        ("a", "lower", 0), ("a", "lower", 1), ("a", "lower", 2), ("a", "lower", 3), ("b", "same", 0)
    ]  # fmt: skip
    cases = [Case(t, e, p, f"k{p}", "true", f"{t}") for t, e, p in names]
    tests, told = Behaviour("test", cases, 0.5), {"true": 0.6, "a": 0.5, "b": 0.1}
    scores = [told[text] if (p, text) != (3, "true") else 0.2 for p, text in tests.pairs]
    table = tests.judge(scores)
    assert rates(table) == {"overall": 37.5, "a": 75.0, "b": 0.0, "accepted": 75.0}
    assert chances(table) == {"overall": 50.0, "a": 50.0, "b": 50.0}


def test_chance_is_what_scores_drawn_at_random_reach() -> None:
    rng = np.random.default_rng(0)
    for expects in ("changed", "same", "accepted", "refused", "lower", "lowest"):
        tables = [judged(rng.random(2).tolist(), expects, 0.3) for _ in range(1000)]
        share = np.mean([table["passed"][0] for table in tables])
        assert share == pytest.approx(tables[0]["chance"][0], abs=0.05), expects


def records(kind: str, pictures: list[bytes]) -> list[Record]:
    labels = ("entailment", "neutral", "contradiction")
    return [
        Record(f"k{i}", pictures[i], (CAPTIONS[i % 4],), i, "test", "made",
               {"label": labels[i % 3]} if kind == "entailment" else {})
        for i in range(len(pictures))
    ]  # fmt: skip


def test_entailment_says_how_likely_a_text_follows(pictures: list[bytes]) -> None:
    task, some = tiny_task("entailment"), records("entailment", pictures)
    pairs = [(0, "a dog"), (3, "two apples above a squid")]
    table = task.predict(RecaptionedRecords(some, pairs), 2)
    assert task.agreement(some, pairs, 1) == pytest.approx(
        [own[2] for own in table["probabilities"]], abs=1e-6
    )
    assert [len(type(task).claims(record)) for record in some] == [1, 0, 0] * 2


def test_a_split_is_prepared_and_scored(pictures: list[bytes]) -> None:
    task, some = tiny_task("entailment"), records("entailment", pictures)
    tests = prepare(CONFIG, type(task), some)
    assert tests is not None
    assert [place for place, _ in tests.pairs] == sorted(place for place, _ in tests.pairs)
    assert len(set(tests.pairs)) == len(tests.pairs)
    assert {c.index for c in tests.cases} <= {0, 3}
    table = tests.judge(task.agreement(some, tests.pairs, 4))
    assert set(rates(table)) >= {"overall", "accepted", "synonym"}
