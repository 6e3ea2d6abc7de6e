"""Text-only baseline: a model that never sees an image, trained on the same rows.

It is a multinomial logistic regression over counts of n-grams. A run that is not clearly better has
learned to guess from its questions. If a record has candidates, such as the boxes of grounding, the
model takes the likeliest of them, relative to how often each is a candidate.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from albef.data.record import Record
from albef.data.shards import read_index
from albef.evaluation.behaviour.cases import evenly
from albef.preprocessing.text import clean_caption
from albef.tasks.rates import accuracies
from albef.tasks.task import RunTask

if TYPE_CHECKING:  # Runs without answers need no such model.
    from scipy import sparse

LONGEST = 3
"""Number of words of the longest n-gram."""
ANSWERS = 1_000
"""Maximum number of distinct answers, the most frequent ones; others are never guessed."""
WEIGHTS = 2_000_000
"""Maximum of n-grams times answers; the most frequent n-grams are counted."""
SCORES = 4_000_000
"""Maximum of rows times answers; rows are sampled evenly. The limits keep a training within
seconds."""
_ITERATIONS = 60
_WORDS = 1_000_000  # a text is not cut


class Row(NamedTuple):
    """A text, the answer to guess from it, and the group of the row."""

    text: str
    answer: str
    group: str = ""
    choices: tuple[str, ...] = ()
    """Candidate answers, with repetitions; if empty, all answers are candidates."""


def read(folder: Path, split: str, kind: type[RunTask]) -> list[Row]:
    """Return the rows of a split that have an answer; images are not read.

    The group of a row is its record's ``meta["type"]``, if set.
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
    """Return the percentage of correct guesses, overall and by group (``accuracy_GROUP``).

    The result is empty if there is nothing to guess. Of n equal candidates, one counts as 1/n.
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
    """The trained text-only model. Rows whose answer is "" are ignored; one must have an answer."""

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
        """Return the likeliest answer to each row, among its candidates if it has any."""
        counts = self._counts([_grams(row.text) for row in rows])
        scores = torch.from_numpy(counts @ self._weight.numpy()) + self._bias
        guesses = [self._answers[i] for i in scores.argmax(dim=1).tolist()]
        ids = {answer: i for i, answer in enumerate(self._answers)}
        for i, row in enumerate(rows):
            if candidates := [choice for choice in row.choices if choice in ids]:
                adjusted = scores[i] - self._offered
                guesses[i] = max(candidates, key=lambda choice: float(adjusted[ids[choice]]))
        return guesses

    def _counts(self, texts: Sequence[Sequence[str]]) -> "sparse.csr_array":
        """Return the number of times each text has each counted n-gram: (n, F)."""
        from scipy import sparse

        columns = [[self._features[g] for g in text if g in self._features] for text in texts]
        ends = np.cumsum([0, *map(len, columns)])
        flat = np.fromiter(itertools.chain.from_iterable(columns), np.int64, ends[-1])
        ones, shape = np.ones(len(flat), np.float32), (len(texts), len(self._features))
        return sparse.csr_array((ones, flat, ends), shape)


def _fit(counts: "sparse.csr_array", labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight (F, C) and bias (C,) of the regression, each weight with a normal prior.

    Full batches and an explicit gradient keep it deterministic.
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
    """Return every run of one to :data:`LONGEST` neighboring words of the cleaned text."""
    words = clean_caption(text, _WORDS).split()
    return [
        " ".join(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    ]


def _top(counts: Counter[str], limit: int) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))[:limit]
