import dataclasses
from pathlib import Path

import numpy as np
import pytest

import albef
from albef.export.calibration import (
    Judged,
    calibrate,
    calibration_error,
    describe,
    is_calibrated,
    judge,
    temperature,
)
from tests.conftest import tiny_records


def overconfident(temperature: float, count: int = 4000) -> Judged:
    """Answers among three that are right as often as their probability says once their scores are
    divided by a temperature."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(count, 3)) * 1.5
    shares = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    return Judged(true * temperature, (rng.random(count) < shares.max(1)).astype(float))


def test_the_temperature_that_made_scores_too_sure_is_found() -> None:
    for made_with in (0.5, 1.0, 2.5):
        judged = overconfident(made_with)
        found = temperature(judged)
        assert found == pytest.approx(made_with, rel=0.1)
        told = describe(judged._replace(logits=judged.logits / found), found)
        assert told["ece"] < 2.5
        before = calibration_error(judged.confidence(), judged.scores)
        assert told["ece_before"] == pytest.approx(before)
        if made_with != 1:
            assert told["ece_before"] > 2 * told["ece"]
        answered = [row["answered"] for row in told["coverage"]]
        accuracy = [row["accuracy"] for row in told["coverage"]]
        assert answered[0] == 100
        assert answered == sorted(answered, reverse=True)
        assert accuracy[-1] > accuracy[0] + 20
    assert temperature(overconfident(3.0, 29)) == 1.0, "few answers leave it as it is"


def test_calibration_error_by_hand() -> None:
    sure, right = np.array([0.9, 0.9, 0.9, 0.61]), np.array([1.0, 1.0, 0.0, 1.0])
    assert calibration_error(sure, right) == pytest.approx(100 * (0.7 + 0.39) / 4)
    few = describe(Judged(np.zeros((1, 2)), np.array([1.0])), 1.0)
    assert few["coverage"][-1] == {"min_probability": 0.95, "answered": 0.0, "accuracy": None}


def test_short_captions_are_asked_too_but_never_as_negatives_of_an_image_that_has_them(
    tiny_exports: dict[str, Path], pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = albef.runtime.load(tiny_exports["retrieval"])
    records = tiny_records("retrieval", pictures, "val", 3)
    own = [record.captions[0] for record in records]
    meta = [{"itm_captions": ["a frog", "a bell"]}, {"itm_captions": ["a bell", "a frog"]}, {}]
    records = [dataclasses.replace(r, meta=m) for r, m in zip(records, meta, strict=True)]
    asked: list[tuple[str, ...]] = []
    match_logits = model.match_logits
    monkeypatch.setattr(
        model, "match_logits", lambda i, t: asked.append(tuple(t)) or match_logits(i, t)
    )
    judged = judge(model, records)
    assert asked[0][:3] == tuple(own)
    assert asked[1] == ("a frog", "a bell")
    assert len(judged.scores) == sum(map(len, asked)) == 8


@pytest.mark.parametrize("kind", ["retrieval", "vqa", "entailment", "nlvr2", "grounding"])
def test_a_model_is_asked_what_it_is_made_for(
    kind: str, tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_exports[kind])
    records = tiny_records(kind, pictures, "val", 33)
    judged = judge(model, records)
    answers = 65 if kind in ("retrieval", "grounding") else 33  # one is alone in its batch
    assert judged.scores.shape == (answers,)
    assert set(judged.scores) == {0.0, 1.0}
    confidence = judged.confidence()
    assert len(set(confidence.round(6))) > 3
    found, sketch = calibrate(model, records)
    pictured = 66 if kind == "nlvr2" else 33
    counted = {what: counts.sum() for what, counts in sketch.counts.items()}
    assert counted == {
        **dict.fromkeys(("width", "height", "brightness"), pictured),
        **dict.fromkeys(("words", "unknown"), 33),
        "confidence": answers,
    }
    assert is_calibrated(model) == (kind != "grounding") == (found != 1)
    model.facts = model.facts.model_copy(update={"temperature": found})
    np.testing.assert_allclose(
        judge(model, records).confidence(), judged.confidence(found), rtol=2e-4
    )


def test_the_probability_of_a_ranked_answer_is_its_confidence(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_exports["vqa"])
    records = tiny_records("vqa", pictures, "val", 5)
    hidden = dataclasses.replace(records[1], meta={})
    judged = judge(model, [records[0], hidden, *records[2:]])
    best = [model.ask([r.image], [r.captions[0]])[0][0] for r in (records[0], *records[2:])]
    np.testing.assert_allclose(judged.confidence(), [answer.probability for answer in best], 1e-5)
