"""Calibration of an exported model: its error and coverage, next to a sketch of its inputs.

Coverage is how often a model is right when it is confident. Shapes: n answers, K candidates each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from albef.data.record import Record
from albef.loading.reading import Records, shared
from albef.runtime.answering import Answering
from albef.runtime.classifying import Classifying
from albef.runtime.matching import Grounding, Matching
from albef.runtime.model import Model
from albef.runtime.sketch import Sketch, brightness
from albef.tasks.classification import label_of, sentence_of
from albef.tasks.temperature import BATCH, Judged, Numbers, hardest, log_probabilities, matched
from albef.tasks.vqa_accuracy import judged_answers

MIN_PROBABILITIES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Values of ``min_probability`` whose coverage is reported."""
_BINS = 15


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
    return Judged.of(rows)


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
    pairs = hardest(records, texts, sim)
    logits = model.match_logits([images[i] for i, _ in pairs], [texts[j] for _, j in pairs])
    return matched(logits.tolist(), pairs)


def _answer(model: Any, records: Sequence[Record]) -> list[tuple[Any, float]]:
    questions = [record.captions[0] for record in records]
    images = [record.image for record in records]
    return judged_answers(records, model.ask(images, questions, model.answering.k))


def _classify(model: Any, records: Sequence[Record]) -> list[tuple[Any, float]]:
    images = list(zip(*(record.images for record in records), strict=True))
    rows = model.probabilities(images, [sentence_of(record) for record in records])
    classes = model.facts.classes
    return [
        (log_probabilities(row), float(classes[row.argmax()] == label_of(record, classes)))
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


def sketched(model: Model, records: Records) -> Sketch:
    """Return a sketch of validation records, and of a model's confidence in its answers to them."""
    judged, sketch = judge(model, records), Sketch()
    for i in range(len(records)):
        for image in records[i].images:
            sketch.image(image, brightness(model.pixels([image])[0]))
        sketch.text(records[i].captions[0], model.ids(records[i].captions[:1])[0][0], model)
    for confidence in judged.confidence() if len(judged.scores) else ():
        sketch.count(confidence=confidence)
    return sketch


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
