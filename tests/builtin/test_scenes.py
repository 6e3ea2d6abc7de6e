"""Scenes: what is promised of their captions, of combinations, and of pairs."""

from collections import Counter
from collections.abc import Iterable

import pytest

from albef.builtin import describe, openmoji, pictures
from albef.builtin.describe import true_of
from albef.data.record import Record
from tests.builtin.drawn import draw, of, scene_of
from tests.builtin.test_describe import parse

LARGE = {
    "objects": 40, "pixels": 32, "caption_noise": 0.3,
    "splits": {"train": 400, "val": 60, "test": 100, "pairs": 64},
}  # fmt: skip
"""More things, another seed, wrong captions."""


def small() -> list[Record]:
    return draw("scenes")


def large() -> list[Record]:
    return draw("scenes", 2, **LARGE)


def pairs(records: Iterable[Record]) -> set[frozenset[str]]:
    scenes = map(scene_of, records)
    return {frozenset(g.name for g in scene.groups) for scene in scenes if len(scene.groups) == 2}


def test_unseen_combinations_are_in_no_training_scene() -> None:
    records = large()
    trained = pairs(of([*small(), *large()], "train"))
    for split in ("val", "test"):
        evaluated = of(records, split)
        new = [record for record in evaluated if record.meta["unseen"]]
        assert len(new) == round(0.2 * len(evaluated))
        assert not pairs(new) & trained
    for record in of(records, "pairs"):
        assert record.meta["unseen"] == describe.unseen(scene_of(record))


def test_evaluation_captions_are_true_of_their_image_alone() -> None:
    for split in ("val", "test", "pairs"):
        rows = of(large(), split)
        assert len({record.captions for record in rows}) == len(rows)
        for i, record in enumerate(rows):
            (caption,) = record.captions
            claim = parse(caption)
            assert [j for j, row in enumerate(rows) if true_of(claim, scene_of(row))] == [i]


def test_noise_is_what_it_says() -> None:
    records = large()
    train = of(records, "train")
    noisy = [record for record in train if "noise" in record.meta]
    assert len(noisy) / len(train) == pytest.approx(0.3, abs=0.07)
    assert {record.meta["noise"] for record in noisy} == {"wrong", "generic"}
    for record in train:
        noise = record.meta.get("noise")
        if noise == "generic":
            assert record.captions[0] in pictures.GENERIC
        else:
            truths = {true_of(parse(text), scene_of(record)) for text in record.captions}
            assert truths == {noise is None}
    assert not any("noise" in record.meta for record in of(records, "val", "test", "pairs"))


def test_a_pair_differs_in_the_one_thing_it_names() -> None:
    rows = of(large(), "pairs")
    changes = Counter(record.meta["change"] for record in rows)
    assert set(changes.values()) == {len(rows) // 4}
    names = [thing.name for thing in openmoji.things(40)]
    for number, (a, b) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
        assert a.meta["pair"] == b.meta["pair"] == number
        assert scene_of(b) in describe.changed(scene_of(a), a.meta["change"], names)
        assert not true_of(parse(a.captions[0]), scene_of(b))
        assert not true_of(parse(b.captions[0]), scene_of(a))
        words = [record.captions[0].split() for record in (a, b)]
        assert a.meta["change"] in ("reversed", "axis") or len(words[0]) == len(words[1])


def test_other_wordings_describe_the_same_pairs() -> None:
    records = draw("scenes", splits={"pairs": 36, "wordings": 36})
    pairs, wordings = of(records, "pairs"), of(records, "wordings")
    assert [scene_of(r) for r in pairs] == [scene_of(r) for r in wordings]
    assert not {r.captions for r in pairs} & {r.captions for r in wordings}
    assert not {r.image for r in pairs} & {r.image for r in wordings}
    for record in wordings:
        assert true_of(parse(record.captions[0]), scene_of(record))


def test_novel_things_are_in_no_other_split() -> None:
    records = draw("scenes", objects=8, splits={"test": 4, "things": 16, "novel": 12})
    names = [{g.name for g in scene_of(r).groups} for r in of(records, "novel")]
    seen = {g.name for r in of(records, "test", "things") for g in scene_of(r).groups}
    assert len(set.union(*names)) == 6
    assert not set.union(*names) & seen


def test_single_things_are_named_and_each_is_shown_as_often() -> None:
    records = draw("scenes", objects=8, splits={"test": 4, "things": 24})
    things = of(records, "things")
    assert Counter(record.meta["thing"] for record in things) == dict.fromkeys(
        {record.meta["thing"] for record in things}, 3
    )
    for record in things:
        ((name, count),) = ((g.name, g.count) for g in scene_of(record).groups)
        assert count == 1
        assert record.meta["thing"].split(" ", 1)[1] == name
    assert len({record.image for record in things}) == 24
    assert of(records, "test") == of(draw("scenes", objects=8, splits={"test": 4}), "test")
