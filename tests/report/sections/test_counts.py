"""Histograms and most frequent values, on indexes written by hand."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.report.sections import counts
from albef.report.sections.counts import binned, draw_histograms, tallies


def table(*rows: dict[str, Any]) -> pa.Table:
    """An index with what a row does not say left at something."""
    whole = []
    for row in rows:
        row = {"captions": ["a dog"], "width": 10, "height": 10, "size": 1024, **row}
        words = [len(text.split()) for text in row["captions"]]
        meta = json.dumps(row.get("meta", {}), sort_keys=True)
        whole.append({**row, "caption_words": words, "meta": meta})
    return pa.Table.from_pylist(whole).select(list(counts.COLUMNS))


def test_whole_numbers_have_a_bin_each() -> None:
    assert binned(np.array([2.0, 3, 3, 5])) == ([1.5, 2.5, 3.5, 4.5, 5.5], [1, 2, 0, 1])


def test_the_last_bin_holds_the_tail() -> None:
    edges, bins = binned(np.concatenate([np.linspace(0, 1, 999), [1e6]]))
    assert edges[-1] < 2
    assert sum(bins) == 1000


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60))
def test_every_value_is_in_a_bin(values: list[float]) -> None:
    edges, bins = binned(np.array(values))
    assert sum(bins) == len(values)
    assert len(edges) == len(bins) + 1
    assert edges == sorted(edges)


def test_what_is_the_same_everywhere_has_no_figure() -> None:
    rows = [{"width": 10 + i, "captions": ["a dog", "a cat"]} for i in range(4)]
    charts = {chart.title: chart.note for chart in draw_histograms(table(*rows))}
    assert list(charts) == ["Width", "Width to height"]
    assert charts["Width"] == "median 11.5"


def test_pictures_whose_header_cannot_be_read_are_left_out() -> None:
    rows = [{"width": 0, "height": 0}, {"width": 5}, {"width": 6}]
    assert "5.5" in next(draw_histograms(table(*rows))).note


def test_captions_words_labels_and_answers() -> None:
    rows = [
        {"captions": ["A dog runs", "a cat"], "meta": {"label": "neutral"}},
        {"captions": ["A dog runs"], "meta": {"label": "neutral", "answers": {"a": 0.3, "b": 0.7}}},
        {"captions": ["two dogs"], "meta": {"label": True, "answers": ["b", "c"]}},
        {"captions": ["x" * 500], "meta": {"answers": {}, "label": None}},
    ]
    by_title = {tally.title: tally for tally in tallies(table(*rows))}
    assert {title: tally.entries for title, tally in by_title.items()} == {
        "Captions": (("A dog runs", 2),),
        "Words": (("a", 3), ("dog", 2), ("runs", 2)),
        "Labels": (("neutral", 2),),
        "Answers": (("b", 2),),
    }
    assert by_title["Captions"].note == "4 different of 5"


@pytest.mark.parametrize("caption", ["x" * 500, "🐕" * 500])
def test_long_captions_are_cut(caption: str) -> None:
    [(text, _)] = next(tallies(table({"captions": [caption]}))).entries
    assert len(text) == 120
    assert text.endswith("…")
