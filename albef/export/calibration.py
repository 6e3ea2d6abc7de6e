"""Calibration: one temperature for all answers (Guo et al., 2017), error, and coverage.

Coverage is how often a model is right when it is confident. Shapes: n answers, K candidates each.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from albef.data.record import Record
from albef.loading.reading import Records, shared
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying
from albef.runtime.matching import Grounding, Matching
from albef.runtime.model import BATCH, Model
from albef.runtime.sketch import Sketch, brightness
from albef.tasks.classification import label_of, sentence_of
from albef.tasks.vqa_accuracy import judged

Numbers = NDArray[np.float64]
MIN_ANSWERS = 30
"""Minimum number of answers for which a temperature is fitted."""
MIN_PROBABILITIES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Values of ``min_probability`` whose coverage is reported."""
_TEMPERATURES = (0.1, 10.0)
_BINS = 15
_TINY = 1e-30  # Lower bound of a probability before its logarithm is taken.


class Judged(NamedTuple):
    """Scored answers of a model to questions whose answer is known."""

    logits: Numbers
    """(n, K) logits or log probabilities, up to a constant per row."""
    scores: Numbers
    """(n,) per-example score of the most probable answer, from 0 (wrong) to 1 (right)."""

    def confidence(self, temperature: float = 1.0) -> Numbers:
        """Return the probability (n,) of the most probable answer."""
        shifted = (self.logits - self.logits.max(axis=1, keepdims=True)) / temperature
        return cast(Numbers, 1 / np.exp(shifted).sum(axis=1))


def judge(model: Model, records: Records) -> Judged:
    """Return a model's answers about records, without those whose answer is not known.

    A matching model scores each image with its own caption and with the most similar other caption
    of the batch, because training draws its negatives like this. Images with ``itm_captions`` are
    scored in the same way with the first of these.
    """
    score = next(score for capability, score in _SCORERS.items() if isinstance(model, capability))
    rows: list[tuple[Any, float]] = []
    for indices in shared(len(records), BATCH):
        rows += score(model, [records[i] for i in indices])
    return Judged(*(np.array([row[i] for row in rows], float) for i in range(2)))


def _match(model: Any, records: Sequence[Record]) -> list[tuple[Any, float]]:
    if not model.facts.itm:  # Contrast alone has no probabilities. The calls fix int8's ranges.
        model.embed_image([record.image for record in records])
        model.embed_text([record.captions[0] for record in records])
        return []
    further = [record for record in records if record.itm_captions]
    rows = _match_texts(model, records, [record.captions[0] for record in records])
    return rows + _match_texts(model, further, [record.itm_captions[0] for record in further])


def _match_texts(
    model: Any, records: Sequence[Record], texts: Sequence[str]
) -> list[tuple[Any, float]]:
    if not records:
        return []
    images = [record.image for record in records]
    sim = model.embed_image(images) @ model.embed_text(texts).T
    for i, record in enumerate(records):
        known = {*record.captions, *record.itm_captions}
        positive = [
            other.image_id == record.image_id or text in known
            for other, text in zip(records, texts, strict=True)
        ]
        sim[i, positive] = -np.inf
    negatives = [(i, int(row.argmax())) for i, row in enumerate(sim) if np.isfinite(row.max())]
    pairs = [(i, i) for i in range(len(records))] + negatives
    logits = model.match_logits([images[i] for i, _ in pairs], [texts[j] for _, j in pairs])
    return [
        (row, float(row.argmax() == (i == j))) for row, (i, j) in zip(logits, pairs, strict=True)
    ]


def _answer(model: Any, records: Sequence[Record]) -> list[tuple[Any, float]]:
    questions = [record.captions[0] for record in records]
    rankings = model.ask([record.image for record in records], questions, model.answering.k)
    rows = []
    for record, best in zip(records, rankings, strict=True):
        if truths := record.meta.get("answers"):
            probabilities = np.maximum([answer.probability for answer in best], _TINY)
            score = judged(best[0].text, list(truths), record.meta.get("annotators"))
            rows.append((np.log(probabilities), score))
    return rows


def _classify(model: Any, records: Sequence[Record]) -> list[tuple[Any, float]]:
    images = list(zip(*(record.images for record in records), strict=True))
    rows = model.probabilities(images, [sentence_of(record) for record in records])
    classes = model.facts.classes
    return [
        (np.log(np.maximum(row, _TINY)), float(classes[row.argmax()] == label_of(record, classes)))
        for row, record in zip(rows, records, strict=True)
    ]


_SCORERS = {Matching: _match, Answering: _answer, Classifying: _classify}
"""Functions that return logits or log probabilities, and per-example scores, of records."""


def is_calibrated(model: Model) -> bool:
    """Return whether the probabilities of a model can be calibrated.

    A generated answer has no alternatives. An expression may also be true of other images. A model
    without ITM has no probabilities.
    """
    is_generated = isinstance(model, Answering) and model.answering.by == "generate"
    return model.facts.itm and not (is_generated or isinstance(model, Grounding))


def calibrate(model: Model, records: Records) -> tuple[float, Sketch]:
    """Return the temperature of a model from validation records, and a sketch of the inputs."""
    judged, sketch = judge(model, records), Sketch()
    fitted = temperature(judged) if is_calibrated(model) else 1.0
    for i in range(len(records)):
        for image in records[i].images:
            sketch.image(image, brightness(model.pixels([image])[0]))
        sketch.text(records[i].captions[0], model.ids(records[i].captions[:1])[0][0], model)
    for confidence in judged.confidence(fitted) if len(judged.scores) else ():
        sketch.count(confidence=confidence)
    return fitted, sketch


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

    best = minimize_scalar(loss, bounds=np.log(_TEMPERATURES), method="bounded")
    return float(f"{np.exp(best.x):.3g}")  # Keep no more digits than different machines agree on.


def calibration_error(confidence: Numbers, scores: Numbers) -> float:
    """Return the expected calibration error (ECE) in percent, in bins of equal width.

    It is the mean difference of confidence and accuracy.
    """
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [(confidence - scores)[bins == i].sum() for i in range(_BINS)]
    return 100 * float(np.abs(gaps).sum()) / len(scores)


def describe(judged: Judged, applied: float) -> dict[str, Any]:
    """Return the calibration of answers whose logits are already divided by ``applied``.

    ``ece`` and ``ece_before`` are in percent, with and without the temperature. ``coverage`` has,
    for each ``min_probability``, the percent of questions that are answered and the accuracy on
    those (None if there are none).
    """
    confidence, scores = judged.confidence(), judged.scores
    coverage = []
    for least in MIN_PROBABILITIES:
        answered = confidence >= least
        accuracy = 100 * float(scores[answered].mean()) if answered.any() else None
        share = 100 * float(answered.mean())
        coverage.append({"min_probability": least, "answered": share, "accuracy": accuracy})
    return {
        "answers": len(scores),
        "temperature": applied,
        "ece_before": calibration_error(judged.confidence(1 / applied), scores),
        "ece": calibration_error(confidence, scores),
        "coverage": coverage,
    }
