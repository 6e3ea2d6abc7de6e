"""Histograms and most frequent values, on indexes written by hand."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.report import counts
from albef.report.counts import binned, histograms, tallies


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """An index with what a row does not say left at something."""
    whole = []
    for row in rows:
        captions = row.get("captions", ["a dog"])
        words = [len(text.split()) for text in captions]
        whole.append({
            "captions": captions, "caption_words": words, "width": row.get("width", 10),
            "height": row.get("height", 10), "size": row.get("size", 1024),
            "meta": json.dumps(row.get("meta", {}), sort_keys=True),
        })  # fmt: skip
    return pa.Table.from_pylist(whole).select(list(counts.COLUMNS))


def test_whole_numbers_have_a_bin_each() -> None:
    edges, found = binned(np.array([2.0, 3, 3, 5]))
    assert edges == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert found == [1, 2, 0, 1]


def test_the_last_bin_holds_the_tail() -> None:
    values = np.concatenate([np.linspace(0, 1, 999), [1e6]])
    edges, found = binned(values)
    assert edges[-1] < 2
    assert sum(found) == 1000


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60))
def test_every_value_is_in_a_bin(values: list[float]) -> None:
    edges, found = binned(np.array(values))
    assert sum(found) == len(values)
    assert len(edges) == len(found) + 1
    assert edges == sorted(edges)


def test_what_is_the_same_everywhere_has_no_figure() -> None:
    rows = [{"width": 10 + i, "captions": ["a dog", "a cat"]} for i in range(4)]
    titles = [chart.title for chart in histograms(table(rows))]
    assert titles == ["Width", "Width to height"]
    assert "median 11.5" in next(histograms(table(rows))).aside


def test_pictures_whose_header_cannot_be_read_are_left_out() -> None:
    rows = [{"width": 0, "height": 0}, {"width": 5}, {"width": 6}]
    assert "5.5" in next(histograms(table(rows))).aside


def test_captions_words_labels_and_answers() -> None:
    rows = [
        {"captions": ["A dog runs", "a cat"], "meta": {"label": "neutral"}},
        {"captions": ["A dog runs"], "meta": {"label": "neutral", "answers": {"a": 0.3, "b": 0.7}}},
        {"captions": ["two dogs"], "meta": {"label": True, "answers": ["b", "c"]}},
        {"captions": ["x" * 500], "meta": {"answers": {}, "label": None}},
    ]
    found = {tally.title: tally for tally in tallies(table(rows))}
    assert found["Captions"].entries == (("A dog runs", 2),)
    assert found["Captions"].aside == "4 different of 5"
    assert found["Captions"].most == 2
    assert found["Words"].entries == (("a", 3), ("dog", 2), ("runs", 2))
    assert found["Labels"].entries == (("neutral", 2),)
    assert found["Answers"].entries == (("b", 2),)


def test_where_nothing_comes_twice_the_first_are_shown() -> None:
    rows = [{"captions": [f"number {i:02}"]} for i in range(40)]
    captions = next(tallies(table(rows)))
    assert captions.entries[:2] == (("number 00", 1), ("number 01", 1))
    assert len(captions.entries) == counts.SHOWN


@pytest.mark.parametrize("said", ["x" * 500, "🐕" * 500])
def test_long_captions_are_cut(said: str) -> None:
    [(shown, _)] = next(tallies(table([{"captions": [said]}]))).entries
    assert len(shown) == 120
    assert shown.endswith("…")
