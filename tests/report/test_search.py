"""The search on the page: what Optuna works out of the trials, and the words of its evidence."""

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from albef.report.content import Report, Search, Trial
from albef.report.page import render
from albef.report.search import importance_bars, search_words, trial_charts

EVIDENCE: dict[str, Any] = {
    "metric": "r_mean",
    "trials": {"complete": 3, "pruned": 1, "fail": 0},
    "chosen": {"trial": 2, "start": False},
    "value": 42.0,
    "start": 40.0,
    "gain": 2.0,
    "best": [42.0, 40.0, 30.0],
    "spread": 12.0,
    "repeatable": True,
}
TRIALS = (
    Trial(0, "complete", {"lr": 1e-4, "alpha": 0.4}, (30.0, 40.0), 40.0, True, False),
    Trial(1, "complete", {"lr": 1e-5, "alpha": 0.1}, (20.0, 30.0), 30.0, False, False),
    Trial(2, "complete", {"lr": 3e-4, "alpha": 0.5}, (31.0, 42.0), 42.0, False, True),
    Trial(3, "pruned", {"lr": 9e-4, "alpha": 0.9}, (5.0,), None, False, False),
    Trial(4, "fail", {"lr": 1e-3, "alpha": 0.9}, (), None, False, False, "the loss is no number"),
)
SEARCH = Search(
    "retrieval",
    {"lr": True, "alpha": False},
    {"lr": 3e-4, "alpha": 0.5},
    TRIALS,
    evidence=EVIDENCE,
)


def titles(svg: str) -> list[str]:
    return [str(title.text) for title in ET.fromstring(svg).iter("title")]


def test_history_curves_and_a_slice_of_each_range() -> None:
    style = mpl.rcParams | {"backend": "Agg"}
    charts = {chart.title: chart for chart in trial_charts(SEARCH)}
    assert set(charts) == {"Score by trial", "Score by epoch", "Score by lr", "Score by alpha"}
    assert mpl.rcParams | {"backend": "Agg"} == style  # Optuna's own style stays inside
    assert titles(charts["Score by trial"].svg) == [
        "trial 1: score 40",
        "trial 2: score 30",
        "trial 3: score 42",
    ]
    assert charts["Score by epoch"].svg.count("<polyline") == 4
    assert "trial 4: 5 at 1" in titles(charts["Score by epoch"].svg)
    sliced = charts["Score by lr"]
    assert titles(sliced.svg) == [
        "trial 1: lr 1e-4, score 40",
        "trial 2: lr 1e-5, score 30",
        "trial 3: lr 3e-4, score 42",
        "trial 4: lr 9e-4, score 5",
    ]
    assert len(re.findall(r'class="trial [^"]*stopped', sliced.svg)) == 1
    assert [label for label, _ in sliced.legend] == ["chosen", "start", "stopped early"]


def test_the_range_that_decides_is_the_important_one() -> None:
    trials = tuple(
        Trial(n, "complete", {"lr": 1e-4 * (n + 1), "alpha": (n * 7 % 10) / 10}, (), float(n),
              n == 0, n == 11)
        for n in range(12)
    )  # fmt: skip
    bars = importance_bars(replace(SEARCH, trials=trials))
    assert [name for name, _, _ in bars] == ["lr", "alpha"]
    assert math.isclose(sum(share for _, share, _ in bars), 1.0)
    assert bars[0][1] > bars[1][1]
    alone = replace(SEARCH, choice={"lr": 3e-4})
    assert not importance_bars(alone)  # one range is all there is
    assert not importance_bars(replace(SEARCH, trials=TRIALS[:2]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "It reached r_mean 42.00, +2.00 against the start's 40.00."),
        ({"chosen": {"start": True}}, "The start wins with r_mean 42.00: no trial was better."),
        ({"start": None, "gain": None}, "the one at the start came to no result."),
        ({}, "3 complete, 1 stopped early."),
        ({"trials": {"complete": 1, "pruned": 0, "fail": 2}}, "1 complete, 2 failed."),
        ({}, "The best 3 lie within 12.00 of each other."),
    ],
)
def test_the_evidence_in_words(changed: dict[str, Any], says: str) -> None:
    assert says in " ".join(search_words(replace(SEARCH, evidence=EVIDENCE | changed)))
    assert not list(search_words(replace(SEARCH, evidence={})))


def test_the_page_shows_what_failed_and_what_cannot_be_repeated() -> None:
    shared = replace(SEARCH, evidence=EVIDENCE | {"not_repeatable_because": "many took part"})
    page = render(Report(1, searches=(shared,)))
    assert '<span class="badge bad">failed</span><small class="error">the loss is no number' in page
    assert "cannot be repeated byte for byte: many took part." in page
    assert page == render(Report(1, searches=(shared,)))
    assert "byte for byte" not in render(Report(1, searches=(SEARCH,)))


def test_a_search_of_one_trial_or_of_failures_alone_is_shown() -> None:
    one = replace(SEARCH, trials=(replace(TRIALS[0], chosen=True),))
    assert len(list(trial_charts(one))) == 4
    assert not list(trial_charts(replace(SEARCH, trials=TRIALS[4:])))
    render(Report(1, searches=(one,)))
