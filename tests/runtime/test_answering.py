from pathlib import Path

import pytest

import albef
from tests.conftest import ANSWERS, CAPTIONS


def test_an_export_answers_as_the_checkpoint_does(
    tiny_checkpoints: dict[str, Path], tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    here, there = albef.load(tiny_checkpoints["vqa"]), albef.runtime.load(tiny_exports["vqa"])
    questions = [f"{CAPTIONS[i % 4]}?" for i in range(6)]
    expected, found = (model.ask(pictures, questions, 2) for model in (here, there))
    for ours, theirs in zip(expected, found, strict=True):
        assert [answer.text for answer in ours] == [answer.text for answer in theirs]
        assert len(ours) == 2
        for a, b in zip(ours, theirs, strict=True):
            assert a.probability == pytest.approx(b.probability, abs=1e-5)
    assert {own[0].text for own in found} <= set(ANSWERS)
    every = there.ask(pictures[:1], questions[:1], 3)[0]
    assert sum(answer.probability for answer in every) == pytest.approx(1, abs=1e-5)
    assert there.ask([], []) == []


def test_below_the_least_probability_there_is_no_answer(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    asked = pictures, [f"{CAPTIONS[i % 4]}?" for i in range(6)]
    every = albef.runtime.load(tiny_exports["vqa"]).ask(*asked)
    least = sorted(best[0].probability for best in every)[3]
    sure = albef.runtime.load(tiny_exports["vqa"], min_probability=least).ask(*asked)
    assert sure == [best if best[0].probability >= least else [] for best in every]
    assert [] in sure
    model = albef.runtime.load(tiny_exports["entailment"], min_probability=1.0)
    assert model.entail(pictures, asked[1]) == [{}] * 6


def test_an_image_with_several_questions_is_read_once(
    tiny_exports: dict[str, Path], pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = albef.runtime.load(tiny_exports["vqa"])
    batches = []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda x: batches.append(len(x)) or encode(x))
    model.ask([pictures[0], pictures[1], pictures[0]], ["one?", "two?", "three?"])
    assert batches == [2]
