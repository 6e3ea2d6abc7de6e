"""What the text alone gives away: a model that never sees a picture, trained on the same rows.

Multinomial logistic regression over the counts of one to three neighbouring words. A run that is
not clearly above it has learned to guess from its questions. Where a record brings its own choices,
as the boxes of grounding, the likeliest of them is taken, beside how often each is among them.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from albef.data.record import Record
from albef.data.shards import read_index
from albef.evaluation.behaviour.cases import evenly
from albef.preprocessing.text import clean_caption
from albef.tasks.task import RunTask, accuracies

LONGEST = 3
"""Words of the longest n-gram."""
ANSWERS = 1_000
"""Answers told apart, the most frequent ones; another one is never guessed."""
WEIGHTS = 2_000_000
"""n-grams times answers at most; the most frequent n-grams are counted."""
SCORES = 4_000_000
"""Rows times answers at most; of more rows, some at even steps are taken. With the other bounds
it keeps a training within seconds, whatever the data set."""
_ITERATIONS = 60
_WORDS = 1_000_000  # a text is not cut


class Row(NamedTuple):
    """A text, what is to be guessed from it, and the group that the row belongs to."""

    text: str
    answer: str
    group: str = ""
    choices: tuple[str, ...] = ()
    """The answers that come into question, with repetitions; none given: all."""


def read(folder: Path, split: str, kind: type[RunTask]) -> list[Row]:
    """The rows of a split that have an answer, from the index alone: no picture is read.

    The group of a row is its record's ``meta["type"]``, where it has one.
    """
    rows, columns = [], ["key", "captions", "image_id", "source", "meta"]
    for row in read_index(folder, split, columns).to_pylist():
        meta: dict[str, Any] = json.loads(row.pop("meta"))
        captions = tuple(row.pop("captions"))
        record = Record(image=b"", captions=captions, split=split, meta=meta, **row)
        answer = kind.answer(record)
        if answer is not None:
            group = str(meta.get("type", ""))
            rows.append(Row(" ".join(captions), answer, group, kind.choices(record)))
    return rows


def score(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Percent of the test rows guessed right, in all and by group (``accuracy_GROUP``).

    The names are those of a kind's own score; empty where there is nothing to guess. One of several
    equal choices counts as its share.
    """
    if not any(row.answer for row in train) or not test:
        return {}
    guessed = TextOnly(train).guess(test)
    right = [
        float(value == row.answer) / max(1, row.choices.count(value))
        for value, row in zip(guessed, test, strict=True)
    ]
    return accuracies(right, [row.group for row in test])


class TextOnly:
    """The trained model.

    Args:
        rows: at least one with an answer; those with "" teach nothing.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if row.answer]
        self._answers = _top(Counter(row.answer for row in rows), ANSWERS)
        ids = {answer: i for i, answer in enumerate(self._answers)}
        rows = [row for row in rows if row.answer in ids]
        rows = evenly(rows, max(1, SCORES // len(ids)))
        grams = [_grams(row.text) for row in rows]
        names = _top(Counter(gram for text in grams for gram in set(text)), WEIGHTS // len(ids))
        self._features = {gram: i for i, gram in enumerate(names)}
        labels = torch.tensor([ids[row.answer] for row in rows])
        self._weight, self._bias = _fit(self._counts(grams), labels, len(ids))
        offered = Counter(choice for row in rows for choice in row.choices)
        counts = torch.tensor([float(offered[answer]) for answer in self._answers])
        self._offered = counts.clamp(min=1).log()

    def guess(self, rows: Sequence[Row]) -> list[str]:
        """The likeliest answer to each row, of its choices if it has any; theirs is not read."""
        counts = self._counts([_grams(row.text) for row in rows])
        scores = torch.from_numpy(counts @ self._weight.numpy()) + self._bias
        guesses = [self._answers[i] for i in scores.argmax(dim=1).tolist()]
        ids = {answer: i for i, answer in enumerate(self._answers)}
        for i, row in enumerate(rows):
            if candidates := [choice for choice in row.choices if choice in ids]:
                adjusted = scores[i] - self._offered
                guesses[i] = max(candidates, key=lambda choice: float(adjusted[ids[choice]]))
        return guesses

    def _counts(self, texts: Sequence[Sequence[str]]) -> sparse.csr_array:
        """How often each text has each n-gram that is counted: (n, F)."""
        places = [[self._features[g] for g in text if g in self._features] for text in texts]
        ends = np.cumsum([0, *map(len, places)])
        flat = np.fromiter(itertools.chain.from_iterable(places), np.int64, ends[-1])
        ones, shape = np.ones(len(flat), np.float32), (len(texts), len(self._features))
        return sparse.csr_array((ones, flat, ends), shape)


def _fit(counts: sparse.csr_array, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (F, C) and bias (C,) of the regression, each weight with a normal prior.

    Full batch, so that nothing is drawn; the gradient is written out, so that it is summed in a
    fixed order.
    """
    weight = torch.zeros(counts.shape[1], classes)
    bias = torch.zeros(classes)
    rows = torch.arange(len(labels))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        history_size=10,
        tolerance_grad=1e-3,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        log_p = torch.log_softmax(torch.from_numpy(counts @ weight.numpy()) + bias, dim=1)
        loss = -log_p[rows, labels].sum() + 0.5 * weight.square().sum()
        error = log_p.exp()
        error[rows, labels] -= 1
        weight.grad = torch.from_numpy(counts.T @ error.numpy()) + weight
        bias.grad = error.sum(dim=0)
        return float(loss)

    optimizer.step(closure)
    return weight, bias


def _grams(text: str) -> list[str]:
    """Every run of one to :data:`LONGEST` neighbouring words of the cleaned text."""
    words = clean_caption(text, _WORDS).split()
    return [
        " ".join(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    ]


def _top(counts: Counter[str], limit: int) -> list[str]:
    """The most frequent names, of equals the first by letter."""
    return sorted(counts, key=lambda name: (-counts[name], name))[:limit]
