from pathlib import Path

import pytest

import albef
from tests.conftest import ANSWERS, CAPTIONS


def test_answers_are_those_of_the_list_and_their_probabilities_sum_to_one(
    tiny_exports: dict[str, Path], pictures: list[bytes]
) -> None:
    model = albef.runtime.load(tiny_exports["vqa"])
    found = model.ask(pictures, [f"{CAPTIONS[i % 4]}?" for i in range(6)], 2)
    assert {len(own) for own in found} == {2}
    assert {own[0].text for own in found} <= set(ANSWERS)
    every = model.ask(pictures[:1], [f"{CAPTIONS[0]}?"], 3)[0]
    assert sum(answer.probability for answer in every) == pytest.approx(1, abs=1e-5)
    assert model.ask([], []) == []


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
