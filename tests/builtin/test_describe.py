"""Scenes, captions and truth."""

import random
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.builtin import describe, openmoji
from albef.builtin.describe import Claim, Group, Scene, true_of

THINGS = {thing.name: thing for thing in openmoji.things(openmoji.MOST)}
FEW = list(THINGS)[:4]  # so that random scenes often share something
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4}
NUMBERS |= {str(number): number for number in range(1, 5)}
NOUNS = {word: thing.name for thing in THINGS.values() for word in (thing.name, thing.plural)}
GROUP = rf"({'|'.join(NUMBERS)}) ({'|'.join(sorted(NOUNS, key=len, reverse=True))})"
POSITIONS: dict[str, Any] = {
    "left": "left", "right": "right", "above": "above", "over": "above", "on top": "above",
    "below": "below", "under": "below", "beneath": "below", "top": "above", "bottom": "below",
}  # fmt: skip


def parse(text: str) -> Claim:
    """What a caption says, read from its words alone; of two groups, the left or upper first."""
    found = list(re.finditer(GROUP, text))
    groups = [Group(NOUNS[match[2]], NUMBERS[match[1]]) for match in found]
    if len(groups) == 1:
        return Claim((groups[0],), only=bool(re.search("only|just|nothing|alone", text)))
    where = re.search("(left|right|on top) of|above|over|below|under|beneath", text)
    if where:  # the group after these words is the one that the other is beside
        is_behind = found[-1].start() < where.start()  # "a squid and two apples above it"
        subject = int(is_behind or found[0].start() > where.start())
        position = where[1] or where[0]
    else:
        where = re.search("(?:on|at) the (left|right|top|bottom)", text)
        assert where
        before = [i for i, match in enumerate(found) if match.end() < where.start()]
        subject, position = before[-1] if before else 0, where[1]
    scene = Scene((groups[subject], groups[1 - subject]), POSITIONS[position]).canonical()
    return Claim(scene.groups, scene.relation)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    names = draw(st.lists(st.sampled_from(FEW), min_size=1, max_size=2, unique=True))
    first = draw(st.integers(1, 4 if len(names) == 1 else 3))
    if len(names) == 1:
        return Scene((Group(names[0], first),))
    second = draw(st.integers(1, 4 - first))
    relation = draw(st.sampled_from(["left", "right", "above", "below"]))
    return Scene((Group(names[0], first), Group(names[1], second)), relation)


@given(scenes(), scenes(), st.randoms(use_true_random=False))
def test_a_caption_is_true_of_its_scene_and_of_no_other(
    scene: Scene, other: Scene, rng: random.Random
) -> None:
    for wording in (describe.SIMPLE, describe.FREE, describe.UNSEEN):
        text, claim = describe.caption(scene, THINGS, rng, wording)
        read = parse(text)
        assert read.only == claim.only
        assert read.groups == Scene(claim.groups, claim.relation).canonical().groups
        for claimed in (read, claim):
            assert true_of(claimed, scene)
            assert true_of(claimed, other) == (other.canonical() == scene.canonical())


@given(scenes(), scenes())
def test_a_short_caption_is_true_of_what_shows_the_group(scene: Scene, other: Scene) -> None:
    for group in scene.groups:
        for text in describe.short_captions(group, THINGS):
            claim = parse(text)
            assert claim == Claim((group,))
            assert true_of(claim, other) == (group in other.groups)


@given(scenes(), st.randoms(use_true_random=False))
def test_what_only_itm_reads_is_true_of_its_scene(scene: Scene, rng: random.Random) -> None:
    texts = list(describe.itm_captions(scene, THINGS, rng))
    assert all(true_of(parse(text), scene) for text in texts)
    assert {len(parse(text).groups) for text in texts} == {1, len(scene.groups)}


def test_captions_have_many_forms_and_held_out_ones_are_others() -> None:
    scene = Scene((Group("squid", 1), Group("apple", 2)), "left")
    rng = random.Random(1)
    forms = [
        {describe.caption(scene, THINGS, rng, wording)[0] for _ in range(500)}
        for wording in (describe.FREE, describe.UNSEEN)
    ]
    assert len(forms[0]) > 100
    assert not forms[0] & forms[1]


@given(scenes(), st.sampled_from(["relation", "reversed", "axis", "count", "object"]))
def test_a_changed_scene_differs_in_that_one_thing(scene: Scene, change: str) -> None:
    scene = scene.canonical()
    others = list(describe.changed(scene, change, FEW))
    assert len(set(others)) == len(others)
    is_relation = change in ("relation", "reversed", "axis")
    assert bool(others) or (is_relation and scene.relation is None)
    for other in others:
        assert other == other.canonical()
        assert sum(group.count for group in other.groups) <= describe.MOST
        counts, names = (
            [sorted(getattr(g, field) for g in s.groups) for s in (scene, other)]
            for field in ("count", "name")
        )
        if is_relation:
            is_reversed = other.relation == scene.relation  # both are canonical
            assert change == "relation" or is_reversed == (change == "reversed")
            assert set(scene.groups) == set(other.groups)
        else:
            assert (counts[0] == counts[1]) == (change == "object")
            assert (names[0] == names[1]) == (change == "count")
            assert scene.relation == other.relation
            assert sum(a != b for a, b in zip(scene.groups, other.groups, strict=True)) == 1
        _, claim = describe.caption(other, THINGS, random.Random(1), describe.FREE)
        assert not true_of(claim, scene)


def test_every_scene_is_listed_once() -> None:
    listed = list(describe.scenes(FEW))
    assert len(set(listed)) == len(listed) == 4 * 4 + 6 * 24
    assert all(scene == scene.canonical() for scene in listed)


def test_each_scene_belongs_to_one_split_regardless_of_the_others() -> None:
    splits: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for scene in describe.scenes(list(THINGS)[:20]):
        split = describe.split_of(scene)
        splits[describe.unseen(scene)][split] += 1
        if scene.relation is not None:
            assert describe.split_of(scene.turned()) == split
    assert set(splits[True]) == {"val", "test", "pairs"}
    assert splits[False]["train"] / splits[False].total() == pytest.approx(0.7, abs=0.03)
    share = splits[True].total() / (splits[False].total() + splits[True].total())
    assert share == pytest.approx(0.15, abs=0.06)
    assert all(describe.split_of(Scene((Group(name, 1),))) == "train" for name in THINGS)


def test_the_split_of_a_scene_never_changes() -> None:
    """Another hash would mix the test scenes of old models into the training of new ones."""
    split = {
        ("squid", 1, "left", "apple", 1): "train",
        ("squid", 1, "above", "apple", 3): "val",
        ("squid", 2, "above", "apple", 1): "test",
        ("squid", 3, "left", "apple", 1): "pairs",
        ("apple", 2, "left", "key", 1): "val",
        ("apple", 1, "left", "key", 1): "test",
        ("apple", 1, "left", "key", 3): "pairs",
    }
    for (a, x, relation, b, y), name in split.items():
        scene = Scene((Group(a, x), Group(b, y)), relation)  # type: ignore[arg-type]
        assert describe.split_of(scene) == name
        assert describe.unseen(scene) == (b == "key")
