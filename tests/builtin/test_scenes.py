"""The built-in data: what it promises of splits, captions and pictures."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef.builtin import describe, openmoji, pictures, scenes
from albef.builtin.describe import Scene, true_of
from albef.config import ParamsError, validate
from albef.data.record import Record
from tests.builtin.test_describe import parse

VALUES: dict[str, Any] = {
    "kind": "scenes",
    "objects": 12,
    "pixels": 48,
    "splits": {"train": 150, "val": 30, "test": 50, "pairs": 36},
    "captions": 2,
    "caption_noise": 0.0,
    "unseen": 0.2,
}
PICTURES: dict[str, Any] = {
    "kind": "pictures",
    "objects": 12,
    "pixels": 48,
    "splits": {"train": 120, "val": 12},
    "caption_noise": 0.0,
}


def make(seed: int, **changed: Any) -> list[Record]:
    config = validate(scenes.Config, {**VALUES, **changed}, where="test")
    return list(scenes.records(config, seed))


def make_pictures(seed: int, **changed: Any) -> list[Record]:
    config = validate(pictures.Config, {**PICTURES, **changed}, where="test")
    return list(pictures.records(config, seed))


@pytest.fixture(scope="module")
def small() -> list[Record]:
    return make(1)


@pytest.fixture(scope="module")
def large() -> list[Record]:
    """Another data set: more things, another seed, wrong captions."""
    splits = {"train": 400, "val": 60, "test": 100, "pairs": 60}
    return make(2, objects=40, splits=splits, caption_noise=0.3, pixels=32)


def of(records: Sequence[Record], *splits: str) -> list[Record]:
    return [record for record in records if record.split in splits]


def shown(record: Record) -> Scene:
    return Scene.from_meta(record.meta)


def test_counts_keys_and_ids(small: list[Record]) -> None:
    assert Counter(record.split for record in small) == VALUES["splits"]
    assert len({record.key for record in small}) == len(small)
    assert sorted(record.image_id for record in small) == list(range(len(small)))


def test_no_scene_is_in_two_splits_whatever_the_data_set(
    small: list[Record], large: list[Record]
) -> None:
    everything = small + large + make_pictures(3, splits={"train": 24})
    by_split: dict[str, set[str]] = {}
    for record in everything:
        by_split.setdefault(record.split, set()).add(shown(record).text())
    splits = list(by_split)
    assert len(splits) == 4
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            assert not by_split[first] & by_split[second]


def test_unseen_combinations_are_in_no_training_scene(
    small: list[Record], large: list[Record]
) -> None:
    def pairs(records: Sequence[Record]) -> set[frozenset[str]]:
        return {
            frozenset(group.name for group in shown(record).groups)
            for record in records
            if len(shown(record).groups) == 2
        }

    trained = pairs(of(small + large, "train"))
    for records in (small, large):
        for split in ("val", "test"):
            evaluated = of(records, split)
            new = [record for record in evaluated if record.meta["unseen"]]
            assert len(new) == round(0.2 * len(evaluated))
            assert not pairs(new) & trained
        for record in of(records, "pairs"):
            assert record.meta["unseen"] == describe.unseen(shown(record))


def test_evaluation_captions_are_true_of_their_image_alone(
    small: list[Record], large: list[Record]
) -> None:
    for records in (small, large):
        for split in ("val", "test", "pairs"):
            rows = of(records, split)
            assert len({record.captions for record in rows}) == len(rows)
            for i, record in enumerate(rows):
                (caption,) = record.captions
                claim = parse(caption)
                assert [j for j, o in enumerate(rows) if true_of(claim, shown(o))] == [i]


def test_training_captions_are_different_and_true(small: list[Record]) -> None:
    for record in of(small, "train"):
        assert len(set(record.captions)) == len(record.captions) == 2
        assert all(true_of(parse(caption), shown(record)) for caption in record.captions)
        assert "noise" not in record.meta


def test_noise_is_what_it_says(large: list[Record]) -> None:
    train = of(large, "train")
    noisy = [record for record in train if "noise" in record.meta]
    assert len(noisy) / len(train) == pytest.approx(0.3, abs=0.07)
    assert {record.meta["noise"] for record in noisy} == {"wrong", "generic"}
    for record in train:
        match record.meta.get("noise"):
            case "generic":
                assert record.captions[0] in pictures.GENERIC
            case "wrong":
                assert not any(true_of(parse(text), shown(record)) for text in record.captions)
            case _:
                assert all(true_of(parse(text), shown(record)) for text in record.captions)
    assert not any("noise" in record.meta for record in of(large, "val", "test", "pairs"))


def test_a_pair_differs_in_the_one_thing_it_names(small: list[Record], large: list[Record]) -> None:
    for records in (small, large):
        rows = of(records, "pairs")
        changes = Counter(record.meta["change"] for record in rows)
        assert set(changes.values()) == {len(rows) // 3}
        for number, (a, b) in enumerate(zip(rows[::2], rows[1::2], strict=True)):
            assert a.meta["pair"] == b.meta["pair"] == number
            names = [thing.name for thing in openmoji.things(40)]
            assert shown(b) in describe.changed(shown(a), a.meta["change"], names)
            assert not true_of(parse(a.captions[0]), shown(b))
            assert not true_of(parse(b.captions[0]), shown(a))
            words = [record.captions[0].split() for record in (a, b)]
            assert a.meta["change"] == "relation" or len(words[0]) == len(words[1])


def spans(record: Record, name: str, axis: int) -> tuple[int, int]:
    boxes = [thing["box"] for thing in record.meta["objects"] if thing["name"] == name]
    return min(b[axis] for b in boxes), max(b[axis] + b[axis + 2] for b in boxes)


def test_the_picture_shows_what_the_description_says(
    small: list[Record], large: list[Record]
) -> None:
    for record in small + large:
        scene = shown(record)
        placed = Counter(thing["name"] for thing in record.meta["objects"])
        assert placed == {group.name: group.count for group in scene.groups}
        if scene.relation is None:
            continue
        axis = {"left": 0, "above": 1}[str(scene.relation)]
        first, second = (spans(record, group.name, axis) for group in scene.groups)
        assert first[1] + 2 <= second[0]
        first, second = (spans(record, group.name, 1 - axis) for group in scene.groups)
        assert min(first[1], second[1]) > max(first[0], second[0])  # no relation on this axis


def test_boxes_hold_all_that_is_drawn_and_hardly_overlap(small: list[Record]) -> None:
    for record in small:
        pixels = np.asarray(Image.open(io.BytesIO(record.image))).astype(int)
        assert pixels.shape == (48, 48, 3)
        drawn = np.abs(pixels - _background(record, pixels)).sum(-1) > 90
        inside = np.zeros_like(drawn)
        area = 0
        for thing in record.meta["objects"]:
            x, y, width, height = thing["box"]
            assert 0 <= x < x + width <= 48
            assert 0 <= y < y + height <= 48
            assert drawn[y : y + height, x : x + width].any()
            inside[y : y + height, x : x + width] = True
            area += width * height
        assert not (drawn & ~inside).any()
        assert inside.sum() >= 0.85 * area


def _background(record: Record, pixels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    outside = np.ones(pixels.shape[:2], bool)
    for thing in record.meta["objects"]:
        x, y, width, height = thing["box"]
        outside[y : y + height, x : x + width] = False
    colours, counts = np.unique(pixels[outside], axis=0, return_counts=True)
    colour = colours[counts.argmax()]
    assert (colour >= 200).all()
    return np.asarray(colour)


def test_places_sizes_and_angles_are_jittered(small: list[Record]) -> None:
    things = [thing for record in small for thing in record.meta["objects"]]
    assert len({tuple(thing["box"]) for thing in things}) > 0.8 * len(things)
    assert len({thing["angle"] for thing in things}) > 100
    assert min(thing["size"] for thing in things) >= 48 / 6


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    splits = {"train": 20, "val": 10, "test": 10, "pairs": 6}
    first, again, other = (make(seed, splits=splits, caption_noise=0.5) for seed in (1, 1, 2))
    assert first == again
    assert not {record.image for record in first} & {record.image for record in other}


def test_one_split_does_not_depend_on_the_others() -> None:
    alone = make(1, splits={"test": 10})
    together = of(make(1, splits={"train": 5, "test": 10}), "test")
    assert [r.image for r in alone] == [r.image for r in together]
    assert [r.captions for r in alone] == [r.captions for r in together]


@pytest.mark.parametrize(
    ("splits", "words"),
    [({"test": 5000}, "splits.test"), ({"pairs": 5000}, "splits.pairs")],
)
def test_too_many_are_asked_for(splits: dict[str, int], words: str) -> None:
    with pytest.raises(ParamsError, match=f"{words} asks for .* lower {words} or raise objects"):
        make(1, splits=splits)


def test_too_few_things() -> None:
    with pytest.raises(ParamsError, match="raise objects"):
        make(1, objects=2, splits={"test": 10})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"splits": {"pairs": 3}}, "splits: pairs must be an even number"),
        ({"splits": {"tran": 3}}, "'train', 'val', 'test' or 'pairs'"),
        ({"objects": 1000}, f"objects: input should be less than or equal to {openmoji.MOST}"),
        ({"unseen": 1.5}, "unseen"),
        ({"caption": 2}, "did you mean captions?"),
    ],
)
def test_wrong_values_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        make(1, **changed)
    assert message in str(caught.value)


def test_things_have_different_short_names() -> None:
    things = openmoji.things(openmoji.MOST)
    words = [word for thing in things for word in thing.name.split()]
    assert len(set(words)) == len(words)
    assert max(len(thing.name.split()) for thing in things) == 1
    assert {thing.name for thing in things}.isdisjoint(thing.plural for thing in things)
    assert [thing.name for thing in openmoji.things(3)] == ["squid", "apple", "key"]


def test_every_thing_can_be_drawn() -> None:
    artist = openmoji.Artist(32)
    pictures_of = {}
    for thing in openmoji.things(openmoji.MOST):
        sprite = artist.sprite(thing, 24, 0)
        assert max(sprite.size) in (23, 24, 25)
        pictures_of[sprite.tobytes()] = thing.name
    assert len(pictures_of) == openmoji.MOST


def test_pictures_show_and_name_one_thing() -> None:
    records = make_pictures(1)
    assert Counter(record.split for record in records) == PICTURES["splits"]
    for record in records:
        (thing,) = record.meta["objects"]
        text = record.captions[0].removeprefix("a picture of ")
        assert true_of(parse(text), shown(record))
        assert thing["name"] == shown(record).groups[0].name
    train = Counter(record.meta["groups"][0]["name"] for record in of(records, "train"))
    assert set(train.values()) == {10}
    val = of(records, "val")
    assert len({record.meta["groups"][0]["name"] for record in val}) == len(val)


def test_pictures_have_noise_in_training_only() -> None:
    records = make_pictures(1, caption_noise=1.0)
    for record in records:
        true = record.captions[0].endswith(f" {shown(record).groups[0].name}")
        assert true == (record.split == "val") == ("noise" not in record.meta)


def test_more_pictures_than_things_cannot_be_told_apart() -> None:
    with pytest.raises(ParamsError, match=r"splits\.val is 13, but 12 objects"):
        make_pictures(1, splits={"val": 13})
