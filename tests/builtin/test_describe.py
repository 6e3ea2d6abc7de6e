"""Scenes, captions and truth."""

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
NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
SINGULAR = {thing.plural: thing.name for thing in THINGS.values()}


def parse(text: str) -> Claim:
    """What a caption says, read from its words alone."""

    def group(words: str) -> Group:
        number, name = words.split(" ", 1)
        count = NUMBERS[number]
        return Group(name if count == 1 else SINGULAR[name], count)

    if text.startswith("only "):
        return Claim((group(text.removeprefix("only ")),), only=True)
    if text.endswith(" and nothing else"):
        return Claim((group(text.removesuffix(" and nothing else")),), only=True)
    forms: dict[str, Any] = {
        r"(.+) left of (.+)|(.+) on the left and (.+) on the right": "left",
        r"(.+) right of (.+)|(.+) on the right and (.+) on the left": "right",
        r"(.+) above (.+)|(.+) at the top and (.+) at the bottom": "above",
        r"(.+) below (.+)|(.+) at the bottom and (.+) at the top": "below",
    }
    for form, relation in forms.items():
        if match := re.fullmatch(form, text):
            a, b = (words for words in match.groups() if words)
            return Claim((group(a), group(b)), relation)
    return Claim((group(text),))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    names = draw(st.lists(st.sampled_from(FEW), min_size=1, max_size=2, unique=True))
    first = draw(st.integers(1, 4 if len(names) == 1 else 3))
    if len(names) == 1:
        return Scene((Group(names[0], first),))
    second = draw(st.integers(1, 4 - first))
    relation = draw(st.sampled_from(["left", "right", "above", "below"]))
    return Scene((Group(names[0], first), Group(names[1], second)), relation)


@given(scenes(), scenes())
def test_a_caption_is_true_of_its_scene_and_an_unmistakable_one_of_no_other(
    scene: Scene, other: Scene
) -> None:
    for unmistakable in (False, True):
        wordings = list(describe.captions(scene, THINGS, unmistakable=unmistakable))
        assert len({text for text, _ in wordings}) == len(wordings) >= 2
        for text, claim in wordings:
            assert parse(text) == claim
            assert true_of(claim, scene)
            if unmistakable:
                assert true_of(claim, other) == (other.canonical() == scene.canonical())


@given(scenes(), scenes())
def test_equal_texts_are_equal_scenes(scene: Scene, other: Scene) -> None:
    assert (scene.text() == other.text()) == (scene.canonical() == other.canonical())
    assert scene.canonical().canonical() == scene.canonical()


@given(scenes(), st.sampled_from(["relation", "count", "object"]))
def test_a_changed_scene_differs_in_that_one_thing(scene: Scene, change: str) -> None:
    scene = scene.canonical()
    others = list(describe.changed(scene, change, FEW))
    assert len(set(others)) == len(others)
    assert bool(others) or (change == "relation" and scene.relation is None)
    for other in others:
        assert other == other.canonical()
        assert sum(group.count for group in other.groups) <= describe.MOST
        counts, names = (
            [sorted(getattr(g, field) for g in s.groups) for s in (scene, other)]
            for field in ("count", "name")
        )
        if change == "relation":
            assert set(scene.groups) == set(other.groups)
        else:
            assert (counts[0] == counts[1]) == (change == "object")
            assert (names[0] == names[1]) == (change == "count")
            assert scene.relation == other.relation
            assert sum(a != b for a, b in zip(scene.groups, other.groups, strict=True)) == 1
        for _, claim in describe.captions(other, THINGS, unmistakable=True):
            assert not true_of(claim, scene)


def test_every_scene_is_listed_once() -> None:
    listed = list(describe.scenes(FEW))
    assert len(set(listed)) == len(listed) == 4 * 4 + 6 * 24
    assert all(scene == scene.canonical() for scene in listed)


def test_each_scene_belongs_to_one_split_whatever_else_there_is() -> None:
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
