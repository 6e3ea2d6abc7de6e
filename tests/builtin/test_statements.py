"""Statements: the label follows from the picture, and nothing follows from the text."""

from collections import Counter

import numpy as np

from albef.builtin import openmoji
from albef.builtin.describe import Claim, Group, Scene
from albef.builtin.statements import LABELS, View, judge
from tests.builtin.drawn import draw, scene_of
from tests.builtin.test_describe import parse

NAMES = [thing.name for thing in openmoji.things(12)]
APPLE, KEYS, FROG = Group("apple", 1), Group("key", 2), Group("frog", 1)


def test_what_is_seen_decides() -> None:
    for claim, covered, label in (
        (Claim((APPLE,)), None, "entailment"),
        (Claim((APPLE,)), 0, "neutral"),
        (Claim((FROG,)), None, "contradiction"),
        (Claim((FROG,)), 1, "neutral"),  # it may be beneath
        (Claim((Group("apple", 2),)), 1, "contradiction"),  # there is one, to be seen
        (Claim((APPLE, KEYS), "left"), None, "entailment"),
        (Claim((APPLE, KEYS), "right"), None, "contradiction"),
        (Claim((APPLE, KEYS), "left"), 0, "neutral"),
        (Claim((APPLE, KEYS), "above"), 1, "contradiction"),  # the card is on the right
        (Claim((FROG, KEYS), "left"), 1, "contradiction"),  # the apple is in its place
    ):
        view = View(Scene((APPLE, KEYS), "left"), covered)
        assert judge(claim, view, NAMES) == label, claim


def test_each_label_is_right() -> None:
    for record in draw("statements"):
        claim = parse(record.captions[0])
        names = [group.name for group in scene_of(record).groups]
        hidden = record.meta["covered"]
        view = View(scene_of(record), None if hidden is None else names.index(hidden))
        assert judge(claim, view, NAMES) == record.meta["label"], record.key


def test_each_sentence_has_every_label_so_that_the_text_tells_nothing() -> None:
    records = draw("statements")
    statements = Counter((r.split, r.meta["statement"], r.captions) for r in records)
    assert set(statements.values()) == {3}
    labels = Counter((r.split, r.captions, r.meta["label"]) for r in records)
    for (split, captions, _), times in labels.items():
        assert {labels[split, captions, label] for label in LABELS} == {times}


def test_cards_lie_in_images_of_every_label() -> None:
    covered: dict[str, list[bool]] = {label: [] for label in LABELS}
    for record in draw("statements"):
        covered[record.meta["label"]].append(record.meta["covered"] is not None)
    share = {label: np.mean(each) for label, each in covered.items()}
    assert share["neutral"] == 1
    assert 0.15 < share["entailment"] < 0.6
    assert 0.15 < share["contradiction"] < 0.6
