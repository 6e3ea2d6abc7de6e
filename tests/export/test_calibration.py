import dataclasses
from pathlib import Path

import numpy as np
import pytest

import albef
from albef.export.calibration import calibration_error, describe, judge, sketched
from albef.tasks.temperature import Judged
from tests.conftest import tiny_records


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
    sketch = sketched(model, records)
    pictured = 66 if kind == "nlvr2" else 33
    counted = {what: counts.sum() for what, counts in sketch.counts.items()}
    assert counted == {
        **dict.fromkeys(("width", "height", "brightness"), pictured),
        **dict.fromkeys(("words", "unknown"), 33),
        "confidence": answers,
    }


def test_the_probability_of_a_ranked_answer_is_its_confidence(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_exports["vqa"])
    records = tiny_records("vqa", pictures, "val", 5)
    hidden = dataclasses.replace(records[1], meta={})
    judged = judge(model, [records[0], hidden, *records[2:]])
    best = [model.ask([r.image], [r.captions[0]])[0][0] for r in (records[0], *records[2:])]
    np.testing.assert_allclose(judged.confidence(), [answer.probability for answer in best], 1e-5)
