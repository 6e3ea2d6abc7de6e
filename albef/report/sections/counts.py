"""Histograms and most frequent values of the records of a data set, from its index."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from albef.report import figures
from albef.report.figures import Chart
from albef.report.wording import format_number

COLUMNS = ("captions", "caption_words", "width", "height", "size", "meta")
"""Columns of the index that are looked at."""
SHOWN = 12
"""Most frequent values that are shown."""
_BINS = 24
_TAIL = 99.5  # percentile; what is beyond stands in the last bin
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_LONGEST = 120  # letters of a caption or answer that are shown


@dataclass(frozen=True)
class Tally:
    """What is most frequent of something: (text, how often), the most frequent first.

    ``note`` says how many there are in all.
    """

    title: str
    note: str
    entries: tuple[tuple[str, int], ...]


def draw_histograms(table: pa.Table) -> Iterator[Chart]:
    """Of the captions and pictures of an index with :data:`COLUMNS`; of what is the same everywhere
    there is none."""
    width, height = table["width"].to_numpy(), table["height"].to_numpy()
    readable = np.minimum(width, height) > 0
    counts = pc.list_value_length(table["captions"]).to_numpy()
    measured = (
        ("Words of a caption", "words", pc.list_flatten(table["caption_words"]).to_numpy()),
        ("Captions of a record", "captions", counts),
        ("Width", "pixels", width[readable]),
        ("Height", "pixels", height[readable]),
        ("Width to height", "ratio", (width / np.maximum(height, 1))[readable]),
        ("Bytes of a picture", "KiB", table["size"].to_numpy() / 1024),
    )
    for title, unit, values in measured:
        edges, bins = binned(np.asarray(values, float)) if len(values) else ([], [])
        if len(bins) > 1:
            median = format_number(float(np.median(values)))
            name = f"{title}, median {median} {unit}"
            svg = figures.histogram(edges, bins, x_label=unit, name=name)
            yield Chart(title, f"median {median}", (), svg)


def binned(values: NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Edges of bins and how many values are in each; the last one holds the tail too.

    Whole numbers of a small range have a bin each.
    """
    low, high = float(values.min()), float(np.percentile(values, _TAIL, method="higher"))
    is_integer = bool((values == np.rint(values)).all())
    if is_integer and high - low < _BINS:
        edges = np.arange(low - 0.5, high + 1)
    elif low == high:  # but for the tail
        edges = np.array([low - 0.5, low + 0.5])
    else:
        edges = np.linspace(low, high, _BINS + 1)
    counts, _ = np.histogram(values.clip(max=high), edges)
    return edges.tolist(), counts.tolist()


def tallies(table: pa.Table) -> Iterator[Tally]:
    """The most frequent captions, words, and labels or answers where records have them."""
    captions: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for caption in pc.list_flatten(table["captions"]).to_pylist():
        captions[_short(caption)] += 1
        words.update(_WORD.findall(caption.lower()))
    labels: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for text in table["meta"].to_pylist():
        if '"label"' in text or '"answers"' in text:
            meta = json.loads(text)
            if isinstance(meta.get("label"), str | int):
                labels[_short(str(meta["label"]))] += 1
            answers.update(_answer(meta))
    for title, unit, counts in (
        ("Captions", "", captions),
        ("Words", "", words),
        ("Labels", " records", labels),
        ("Answers", " records", answers),
    ):
        if counts or not unit:
            most_frequent = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
            repeated = [entry for entry in most_frequent if entry[1] > 1]
            note = f"{len(counts):,} different of {counts.total():,}{unit}"
            yield Tally(title, note, tuple(repeated or most_frequent))


def _answer(meta: Mapping[str, Any]) -> Iterator[str]:
    """The heaviest answer, the first of equal ones."""
    answers = meta.get("answers")
    if isinstance(answers, Mapping) and answers:
        yield _short(max(sorted(answers), key=lambda answer: float(answers[answer])))
    elif isinstance(answers, list) and answers:
        yield _short(str(answers[0]))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
