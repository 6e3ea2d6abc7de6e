"""One temperature for all answers of a model (Guo et al., 2017), fitted on the val split.

Shapes: n answers, K candidates each, B records.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from albef.data.record import Record

Numbers = NDArray[np.float64]
RECORDS = 1000
"""Number of records of the val split, the first ones, on which a temperature is fitted."""
BATCH = 32
"""Number of records whose captions are each other's candidate negatives."""
MIN_ANSWERS = 30
"""Minimum number of answers for which a temperature is fitted."""
_RANGE = (0.1, 10.0)
_TINY = 1e-30  # Lower bound of a probability before its logarithm is taken.


class Judged(NamedTuple):
    """Scored answers of a model to questions whose answer is known."""

    logits: Numbers
    """(n, K) logits or log probabilities, up to a constant per row."""
    scores: Numbers
    """(n,) per-example score of the most probable answer, from 0 (wrong) to 1 (right)."""

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[float] | Numbers, float]]) -> "Judged":
        """Return n answers of which each has K logits and a score."""
        return cls(*(np.array([row[i] for row in rows], float) for i in range(2)))

    def confidence(self, temperature: float = 1.0) -> Numbers:
        """Return the probability (n,) of the most probable answer."""
        shifted = (self.logits - self.logits.max(axis=1, keepdims=True)) / temperature
        return cast(Numbers, 1 / np.exp(shifted).sum(axis=1))


def temperature(judged: Judged) -> float:
    """Return the temperature that maximizes the likelihood of the most probable answers.

    Logits are divided by it. It is 1 if there are fewer than :data:`MIN_ANSWERS` answers.
    """
    if len(judged.scores) < MIN_ANSWERS:
        return 1.0
    from scipy.optimize import minimize_scalar  # The check of the values needs none of it.

    def loss(log: float) -> float:
        confidence, scores = np.clip(judged.confidence(np.exp(log)), 1e-9, 1 - 1e-9), judged.scores
        return -float(np.mean(scores * np.log(confidence) + (1 - scores) * np.log(1 - confidence)))

    best = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded")
    return float(f"{np.exp(best.x):.3g}")  # Keep no more digits than different machines agree on.


def hardest(
    records: Sequence[Record], texts: Sequence[str], sim: NDArray[np.float32]
) -> list[tuple[int, int]]:
    """Return pairs of an image and a text (indices): each image with its own, then with a negative.

    The negative is the most similar text of another image, unless it is also a caption of this one,
    because training draws its negatives like this. ``sim`` (B, B) has the similarities of images
    and texts.
    """
    sim = sim.copy()
    for i, record in enumerate(records):
        known = {*record.captions, *record.itm_captions}
        positive = [
            other.image_id == record.image_id or text in known
            for other, text in zip(records, texts, strict=True)
        ]
        sim[i, positive] = -np.inf
    negatives = [(i, int(row.argmax())) for i, row in enumerate(sim) if np.isfinite(row.max())]
    return [(i, i) for i in range(len(records))] + negatives


def matched(
    logits: Sequence[Sequence[float]], pairs: Sequence[tuple[int, int]]
) -> list[tuple[Sequence[float], float]]:
    """Return ITM's logits (2) of each pair of :func:`hardest`, and 1 if the decision is right."""
    return [
        (row, float((row[1] > row[0]) == (image == text)))
        for row, (image, text) in zip(logits, pairs, strict=True)
    ]


def log_probabilities(probabilities: Sequence[Sequence[float]] | Sequence[float]) -> Numbers:
    """Return logarithms of probabilities, which may be 0."""
    return np.log(np.maximum(probabilities, _TINY))
