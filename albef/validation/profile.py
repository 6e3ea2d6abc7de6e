"""The profile of a dataset: its captions and images as counts and quantiles.

Bins are fixed, so the profiles of two datasets can be compared. Equal data have equal profiles, in
any order.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from albef.validation.tables import TRAIN, Tables, count_words

EVALUATION = "evaluation"
PARTS = (TRAIN, EVALUATION)
"""The training split, and all evaluation splits together."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
OTHER = "(other)"
"""Name for all words or labels that are not listed. No word contains parentheses."""


@dataclass(frozen=True)
class Column:
    """Numeric column that is counted in bins."""

    table: str
    name: str
    what: str
    """Description for readers."""
    bins: tuple[float, ...]
    """Bin edges, ascending. The last bin includes its upper edge."""


_SIDES = (
    1, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536,
    2048, 3072, 4096, 6144, 8192, 2**26,
)  # fmt: skip
_SHAPES = (0, 0.2, 0.33, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.4, 1.6, 2, 3, 5, 2**26)
_WORDS = (*range(21), 25, 30, 40, 60, 100, 200, 2**15)
_COLOURS = tuple(range(0, 257, 16))
COLUMNS = (
    Column("captions", "words", "words of a caption", _WORDS),
    Column("records", "captions", "captions of a record", (*range(11), 20, 50, 2**26)),
    Column("images", "width", "width in pixels", _SIDES),
    Column("images", "height", "height in pixels", _SIDES),
    Column("images", "aspect", "width to height", _SHAPES),
    Column("images", "red", "mean red", _COLOURS),
    Column("images", "green", "mean green", _COLOURS),
    Column("images", "blue", "mean blue", _COLOURS),
    Column("images", "brightness", "mean brightness", _COLOURS),
    Column("images", "saturation", "mean saturation", tuple(i / 16 for i in range(17))),
)
WORDS, LABELS = "words", "labels"
LISTED = {WORDS: 200, LABELS: 50}
"""Number of most frequent words, and labels or answers, that are listed."""
NAMES = {WORDS: "vocabulary", LABELS: "labels"}
"""Descriptions for readers."""


def parts(tables: Tables) -> dict[str, Tables]:
    """Return the rows of the training split and of the evaluation splits, without empty parts."""
    measured = [column.name for column in COLUMNS if column.table == "images"]
    by_part = {}
    for part in PARTS:
        rows = {
            name: frame[(frame["split"] == TRAIN) == (part == TRAIN)].reset_index(drop=True)
            for name, frame in tables.items()
        }
        rows["images"] = rows["images"].dropna(subset=measured).reset_index(drop=True)
        if len(rows["records"]):
            by_part[part] = rows
    return by_part


def profile(dataset: str, digest: str, rows: Mapping[str, Tables]) -> dict[str, Any]:
    """Return the profile of a dataset as JSON values, given its rows by part (:func:`parts`)."""
    return {
        "dataset": dataset,
        "digest": digest,
        "parts": {part: _profile(tables) for part, tables in rows.items()},
    }


def _profile(tables: Tables) -> dict[str, Any]:
    return {
        "records": len(tables["records"]),
        "numbers": [
            numbers
            for column in COLUMNS
            if (numbers := _numbers(column, tables[column.table][column.name]))
        ],
        "categories": [
            {"table": name, "what": NAMES[name], **_listed(counts, LISTED[name])}
            for name, counts in count_values(tables).items()
            if counts
        ],
    }


def count_values(tables: Tables) -> dict[str, Counter[str]]:
    """Count the occurrences of each word, and of each label or answer."""
    labels = tables["records"]["label"]
    labels = labels[labels.notna() & (labels != "")]
    return {
        WORDS: count_words(pa.array(tables["captions"]["caption"], pa.string())),
        LABELS: Counter({str(k): int(n) for k, n in labels.value_counts().items()}),
    }


def _numbers(column: Column, values: "pd.Series[Any]") -> dict[str, Any]:
    if values.empty:
        return {}
    counts, _ = np.histogram(values, column.bins)
    return {
        "table": column.table,
        "column": column.name,
        "what": column.what,
        "quantiles": [  # interpolated as in Great Expectations
            float(value) for value in values.quantile(list(QUANTILES), interpolation="nearest")
        ],
        "bins": list(column.bins),
        "counts": counts.tolist(),
    }


def _listed(counts: Counter[str], limit: int) -> dict[str, Any]:
    most_frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]
    rest = counts.total() - sum(count for _, count in most_frequent)
    return {
        "different": len(counts),
        "values": [*(name for name, _ in most_frequent), *([OTHER] if rest else [])],
        "counts": [*(count for _, count in most_frequent), *([rest] if rest else [])],
    }
