"""Statements: the label follows from the picture, and nothing follows from the text."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from albef.builtin import describe, openmoji, statements
from albef.builtin.describe import Claim, Group, Scene
from albef.builtin.statements import LABELS, View, judge
from albef.config import ParamsError, validate
from albef.data.record import Record
from tests.builtin.test_describe import parse

NAMES = [thing.name for thing in openmoji.things(12)]
SPLITS = {"train": 120, "val": 30, "test": 60}


def made(seed: int = 1, **changed: object) -> list[Record]:
    values = {"kind": "statements", "objects": 12, "pixels": 48, "splits": SPLITS, **changed}
    return list(statements.records(validate(statements.Config, values, where="test"), seed))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return made()


def view_of(record: Record) -> View:
    scene = Scene.from_meta(record.meta)
    names = [group.name for group in scene.groups]
    hidden = record.meta["covered"]
    return View(scene, None if hidden is None else names.index(hidden))


APPLE, KEYS, FROG = Group("apple", 1), Group("key", 2), Group("frog", 1)


@pytest.mark.parametrize(
    ("claim", "covered", "label"),
    [
        (Claim((APPLE,)), None, "entailment"),
        (Claim((APPLE,)), 1, "entailment"),
        (Claim((APPLE,)), 0, "neutral"),
        (Claim((FROG,)), None, "contradiction"),
        (Claim((FROG,)), 1, "neutral"),  # it may be beneath
        (Claim((Group("apple", 2),)), 1, "contradiction"),  # there is one, to be seen
        (Claim((APPLE, KEYS), "left"), None, "entailment"),
        (Claim((KEYS, APPLE), "right"), None, "entailment"),
        (Claim((APPLE, KEYS), "right"), None, "contradiction"),
        (Claim((APPLE, KEYS), "left"), 0, "neutral"),
        (Claim((APPLE, KEYS), "left"), 1, "neutral"),
        (Claim((APPLE, KEYS), "above"), 1, "contradiction"),  # the card is on the right
        (Claim((FROG, KEYS), "left"), 0, "neutral"),
        (Claim((FROG, KEYS), "left"), 1, "contradiction"),  # the apple is in its place
    ],
)
def test_what_is_seen_decides(claim: Claim, covered: int | None, label: str) -> None:
    view = View(Scene((APPLE, KEYS), "left"), covered)
    assert judge(claim, view, NAMES) == label


def test_each_label_is_right(records: list[Record]) -> None:
    for record in records:
        (text,) = record.captions
        claim = parse(text.removeprefix("a picture of "))
        assert judge(claim, view_of(record), NAMES) == record.meta["label"], record.key


def test_each_sentence_has_every_label_so_that_the_text_tells_nothing(
    records: list[Record],
) -> None:
    for split, count in SPLITS.items():
        own = [record for record in records if record.split == split]
        assert len(own) == count
        told = Counter((record.meta["statement"], record.captions) for record in own)
        assert set(told.values()) == {3}
        labels = Counter((record.captions, record.meta["label"]) for record in own)
        for (captions, _), times in labels.items():
            assert {labels[captions, label] for label in LABELS} == {times}


def test_cards_lie_in_pictures_of_every_label(records: list[Record]) -> None:
    share = {
        label: np.mean([r.meta["covered"] is not None for r in records if r.meta["label"] == label])
        for label in LABELS
    }
    assert share["neutral"] == 1
    assert 0.15 < share["entailment"] < 0.6
    assert 0.15 < share["contradiction"] < 0.6


def test_no_scene_is_in_two_splits(records: list[Record]) -> None:
    for record in records:
        assert describe.split_of(Scene.from_meta(record.meta)) == record.split


def test_a_card_hides_a_side_whole_and_nothing_else(records: list[Record]) -> None:
    for record in records:
        picture = np.asarray(Image.open(io.BytesIO(record.image)))
        grey = (picture == 90).all(axis=2)
        scene = view_of(record).scene
        seen = Counter(item["name"] for item in record.meta["objects"])
        expected = {g.name: g.count for g in scene.groups if g.name != record.meta["covered"]}
        assert seen == expected
        if record.meta["covered"] is None:
            continue
        rows, columns = np.flatnonzero(grey.all(axis=1)), np.flatnonzero(grey.all(axis=0))
        side = rows if scene.relation == "above" else columns
        assert len(side)
        assert (np.diff(side) == 1).all()
        axis = 1 if scene.relation == "above" else 0
        for item in record.meta["objects"]:
            begin = item["box"][axis]
            assert not set(range(begin, begin + item["box"][axis + 2])) & set(side.tolist())


def test_the_same_seed_gives_the_same_records_and_another_gives_others(
    records: list[Record],
) -> None:
    assert made() == records
    assert made(2, splits={"train": 12}) != made(1, splits={"train": 12})


def test_wrong_values_are_named() -> None:
    with pytest.raises(ParamsError, match="train: input should be a multiple of 3, got 4"):
        made(splits={"train": 4})
    with pytest.raises(ParamsError, match="raise objects"):
        made(objects=2, splits={"val": 3})
