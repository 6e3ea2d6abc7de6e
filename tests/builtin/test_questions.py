"""The built-in questions: true, balanced, and about scenes of one split only."""

import re
from collections import Counter
from typing import Any

import pytest

from albef.builtin import describe, openmoji, questions
from albef.builtin.describe import INVERSE, Scene
from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.evaluation.text_only import Row, score

VALUES: dict[str, Any] = {
    "kind": "questions",
    "objects": 24,
    "pixels": 32,
    "splits": {"train": 240, "val": 30, "test": 90},
    "questions": 4,
}
THINGS = {thing.name: thing for thing in openmoji.things(24)}
NAMES = {word: name for name, thing in THINGS.items() for word in (name, thing.plural)}


def make(seed: int, **changed: Any) -> list[Record]:
    config = validate(questions.Config, {**VALUES, **changed}, where="test")
    return list(questions.records(config, seed))


@pytest.fixture(scope="module")
def made() -> list[Record]:
    return make(1)


def answer(question: str, scene: Scene) -> str:
    """The answer to a question, from its words and the scene alone."""
    counts = {group.name: group.count for group in scene.groups}
    if match := re.fullmatch(r"(?:is there|does the picture show) an? (.+)\?", question):
        return "yes" if match[1] in counts else "no"
    if match := re.fullmatch(r"how many (.+?) (?:are there|does the picture show)\?", question):
        return ("none", "one", "two", "three")[counts[NAMES[match[1]]]]
    first, second = (group.name for group in scene.groups)
    assert scene.relation is not None
    told = {(first, second): scene.relation, (second, first): INVERSE[scene.relation]}
    if match := re.fullmatch(r"where (?:is|are) the (.+), seen from the (.+)\?", question):
        return told[NAMES[match[1]], NAMES[match[2]]]
    match = re.fullmatch(r"what is (left of|right of|above|below) the (.+)\?", question)
    assert match, question
    relation, seen_from = match[1].removesuffix(" of"), NAMES[match[2]]
    return next(a for (a, b), held in told.items() if held == relation and b == seen_from)


def test_every_answer_is_true(made: list[Record]) -> None:
    for record in made:
        (question,) = record.captions
        expected = {answer(question, Scene.from_meta(record.meta)): 1.0}
        assert record.meta["answers"] == expected, question


def test_counts_keys_and_ids(made: list[Record]) -> None:
    scenes = Counter((record.split, record.image_id) for record in made)
    assert set(scenes.values()) == {4}
    assert Counter(split for split, _ in scenes) == VALUES["splits"]
    assert len({record.key for record in made}) == len(made)
    assert [record.meta["question_id"] for record in made] == list(range(len(made)))
    kinds = Counter(record.meta["type"] for record in made)
    assert kinds == dict.fromkeys(questions.TYPES, len(made) // 4)


def test_no_scene_is_in_two_splits_and_evaluated_ones_differ(made: list[Record]) -> None:
    shown = {record.image_id: record for record in made}.values()
    for record in shown:
        assert describe.split_of(Scene.from_meta(record.meta)) == record.split
    for split in ("val", "test"):
        texts = [Scene.from_meta(r.meta).text() for r in shown if r.split == split]
        assert len(set(texts)) == len(texts)


def test_answers_are_balanced(made: list[Record]) -> None:
    told: dict[str, Counter[str]] = {kind: Counter() for kind in questions.TYPES}
    for record in made:
        told[record.meta["type"]].update(record.meta["answers"])
    assert set(told["count"].values()) == {120}  # of one, two and three, exactly
    total = len(made) / 4
    for kind, answers, slack in (("existence", 2, 0.12), ("relation", 4, 0.3)):
        assert len(told[kind]) == answers
        for count in told[kind].values():
            assert count == pytest.approx(total / answers, rel=slack)
    assert max(told["object"].values()) < total / 8


def test_the_text_alone_gives_little_away(made: list[Record]) -> None:
    rows = {
        split: [
            Row(r.captions[0], next(iter(r.meta["answers"])), r.meta["type"])
            for r in made
            if r.split == split
        ]
        for split in ("train", "test")
    }
    found = score(rows["train"], rows["test"])
    for kind, chance in (("existence", 50), ("count", 33), ("object", 5), ("relation", 25)):
        assert found[f"accuracy_{kind}"] < chance + 14, kind


def test_equal_values_give_equal_records_and_another_seed_others(made: list[Record]) -> None:
    few = {"splits": {"train": 3, "test": 2}}
    assert make(1, **few) == make(1, **few)
    assert make(1, **few) != make(2, **few)


def test_fewer_questions_take_turns() -> None:
    kinds = [record.meta["type"] for record in make(1, questions=3, splits={"train": 4})]
    assert kinds == list(questions.TYPES) * 3


def test_too_many_scenes_are_told() -> None:
    with pytest.raises(ParamsError, match=r"splits\.val asks for 5000 different scenes"):
        make(1, objects=3, splits={"val": 5000})
