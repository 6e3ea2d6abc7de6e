"""Comparisons: the label follows from both pictures, and nothing follows from the text."""

import re
from collections import Counter, defaultdict

import pytest

from albef.builtin import comparisons, describe
from albef.builtin.comparisons import Comparison
from albef.builtin.describe import Group, Scene
from albef.config import ParamsError, validate
from albef.data.record import Record
from tests.builtin.test_describe import parse

SPLITS = {"train": 160, "val": 20, "test": 80}


def made(seed: int = 1, **changed: object) -> list[Record]:
    values = {"kind": "comparisons", "objects": 12, "pixels": 32, "splits": SPLITS, **changed}
    return list(comparisons.records(validate(comparisons.Config, values, where="test"), seed))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return made()


def scenes_of(record: Record) -> tuple[Scene, Scene]:
    first, second = (Scene.from_meta(picture) for picture in record.meta["pictures"])
    return first, second


def read(text: str) -> Comparison:
    """What a sentence says, from its words alone."""
    forms = {
        r"(.+) in the first picture and (.+) in the second"
        r"|the first picture with (.+) and the second with (.+)": "order",
        r"(.+) in the first picture|the first picture with (.+)": "first",
        r"(.+) in the second picture|the second picture with (.+)": "second",
        r"(.+) in both pictures|both pictures with (.+)": "both",
        r"(.+) in only one picture|only one picture with (.+)": "one",
        r"(.+) in neither picture|neither picture with (.+)": "neither",
    }
    for pattern, form in forms.items():
        if match := re.fullmatch(pattern, text):
            claims = [parse(words) for words in match.groups() if words]
            scenes = [Scene(claim.groups, claim.relation).canonical() for claim in claims]
            return Comparison(form, *scenes)  # type: ignore[arg-type]
    raise AssertionError(text)


ONE, TWO = Scene((Group("apple", 1),)), Scene((Group("apple", 2), Group("key", 1)), "left")


@pytest.mark.parametrize(
    ("said", "first", "second", "truth"),
    [
        (Comparison("both", ONE), ONE, ONE, True),
        (Comparison("both", ONE), ONE, TWO, False),
        (Comparison("one", ONE), ONE, TWO, True),
        (Comparison("one", ONE), ONE, ONE, False),
        (Comparison("one", ONE), TWO, TWO, False),
        (Comparison("neither", ONE), TWO, TWO, True),
        (Comparison("neither", ONE), TWO, ONE, False),
        (Comparison("order", ONE, TWO), ONE, TWO, True),
        (Comparison("order", ONE, TWO), TWO, ONE, False),
        (Comparison("first", ONE), ONE, TWO, True),
        (Comparison("first", ONE), TWO, ONE, False),
        (Comparison("second", ONE), TWO, ONE, True),
        (Comparison("second", ONE), ONE, TWO, False),
    ],
)
def test_truth(said: Comparison, first: Scene, second: Scene, truth: bool) -> None:
    assert said.true_of(first, second) is truth


def test_each_label_is_right(records: list[Record]) -> None:
    for record in records:
        truth = read(record.captions[0]).true_of(*scenes_of(record))
        assert record.meta["label"] == str(truth), record.key


def test_each_sentence_is_as_often_true_as_false(records: list[Record]) -> None:
    labels: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in records:
        labels[record.split, record.captions[0]][record.meta["label"]] += 1
    assert all(counted["True"] == counted["False"] for counted in labels.values())
    assert {split: sum(r.split == split for r in records) for split in SPLITS} == SPLITS
    assert {record.meta["form"] for record in records} == set(comparisons.WORDINGS)


def test_what_makes_a_sentence_false_may_be_in_either_picture(records: list[Record]) -> None:
    false = [r for r in records if r.meta["label"] == "False" and r.meta["form"] == "both"]
    shown = {tuple(read(r.captions[0]).a == scene for scene in scenes_of(r)) for r in false}
    assert shown == {(True, False), (False, True)}


def test_of_one_picture_the_other_tells_nothing(records: list[Record]) -> None:
    shown: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for record in records:
        form = record.meta["form"]
        if form in ("first", "second"):
            other = scenes_of(record)[form == "first"]
            has = read(record.captions[0]).a == other
            shown[form, record.meta["label"]][has] += 1
    assert len(shown) == 4
    for counted in shown.values():
        assert 0.2 < counted[True] / counted.total() < 0.8


def test_no_scene_is_in_two_splits(records: list[Record]) -> None:
    for record in records:
        assert len(record.images) == 2
        assert {describe.split_of(scene) for scene in scenes_of(record)} == {record.split}


def test_the_same_seed_gives_the_same_records_and_another_gives_others(
    records: list[Record],
) -> None:
    assert made() == records
    assert made(2, splits={"train": 12}) != made(1, splits={"train": 12})


def test_wrong_values_are_named() -> None:
    with pytest.raises(ParamsError, match="val: input should be a multiple of 2, got 3"):
        made(splits={"val": 3})
