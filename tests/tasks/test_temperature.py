"""The temperature of a model's probabilities, and the answers that it is fitted on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import albef
from albef.export.calibration import calibration_error, describe, is_calibrated, judge
from albef.models.weights import load_checkpoint
from albef.tasks.temperature import Judged, temperature
from tests.conftest import save_task, tiny_records, tiny_task


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


@pytest.mark.parametrize("kind", ["retrieval", "vqa", "entailment", "nlvr2", "grounding"])
def test_a_task_judges_and_calibrates_as_its_export_does(
    kind: str, tiny_exports: dict[str, Path], pictures: list[bytes], tmp_path: Path
) -> None:
    task = tiny_task(kind).eval()
    records = tiny_records(kind, pictures, "val", 40)
    short = {"itm_captions": ["a frog", "a bell"]} if kind == "retrieval" else {}
    records = [
        dataclasses.replace(record, meta=record.meta | short if i % 3 == 0 else record.meta)
        for i, record in enumerate(records)
    ]
    exported = albef.runtime.load(tiny_exports[kind])
    judged = task.judge(records)
    assert is_calibrated(exported) is (judged is not None)
    if judged is None:
        return
    expected = judge(exported, records)
    assert len(judged.scores) == len(expected.scores) >= 40
    np.testing.assert_array_equal(judged.scores, expected.scores)
    np.testing.assert_allclose(judged.confidence(), expected.confidence(), atol=1e-4)

    task.choose(records, 8)
    assert task.answer_temperature == temperature(judged) != 1
    folder = save_task(task, tmp_path / kind)
    model = albef.load(folder)
    assert model.facts.temperature == task.answer_temperature
    cooled = judge(model, records)
    np.testing.assert_allclose(
        cooled.confidence(), judged.confidence(task.answer_temperature), rtol=2e-4
    )
    assert "temperature" not in (load_checkpoint(folder).config["values"])


def test_generated_answers_are_not_calibrated(pictures: list[bytes]) -> None:
    task = tiny_task("vqa", answering="generate")
    assert task.judge(tiny_records("vqa", pictures, "val", 3)) is None
