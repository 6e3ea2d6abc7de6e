import io
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef.builtin import describe, expressions, openmoji
from albef.builtin.expressions import Config, records, split_of, unseen
from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.evaluation.text_only import Row, score
from albef.tasks.grounding import Task as Grounding

SPLITS = {"train": 48, "val": 20, "test": 40}


def make(seed: int, **changed: Any) -> list[Record]:
    values = {"kind": "expressions", "objects": 16, "pixels": 48, "splits": SPLITS}
    return list(records(validate(Config, values | changed, where="test"), seed))


@pytest.fixture(scope="module")
def made() -> list[Record]:
    return make(1)


def shown(record: Record) -> tuple[str, ...]:
    return tuple(sorted({thing["name"] for thing in record.meta["objects"]}))


def centre(box: list[int]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def test_proposals_are_the_boxes_of_the_four_things(made: list[Record]) -> None:
    for record in made:
        boxes = [thing["box"] for thing in record.meta["objects"]]
        assert len(boxes) == 4
        assert len(shown(record)) == expressions.KINDS[record.meta["type"]]
        assert sorted(boxes) == sorted(record.meta["proposals"])
        assert record.meta["box"] in boxes
        for x, y, width, height in boxes:
            assert 0 <= x < x + width <= 48
            assert 0 <= y < y + height <= 48
        for a, b in itertools.combinations(boxes, 2):
            assert (
                a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
                or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
            )  # fmt: skip
    places = Counter(record.meta["proposals"].index(record.meta["box"]) for record in made)
    assert len(places) == 4
    assert max(places.values()) < 0.45 * len(made)


def test_an_expression_is_true_of_the_thing_that_is_meant_alone(made: list[Record]) -> None:
    for record in made:
        (text,) = record.captions
        _, name, *rest = text.split()
        things = record.meta["objects"]
        named = [thing["box"] for thing in things if thing["name"] == name]
        meant = record.meta["box"]
        assert meant in named
        if record.meta["type"] == "name":
            assert rest == []
            assert len(named) == 1
            continue
        assert rest[:2] == ["beside", "the"]
        (other,) = [thing["box"] for thing in things if thing["name"] == rest[2]]
        assert len(named) == 2
        # Of the two, the meant one alone stands in the row of the other thing.
        rows = sorted(things, key=lambda thing: centre(thing["box"])[1])
        row = next(two for two in (rows[:2], rows[2:]) if other in [t["box"] for t in two])
        assert [t["box"] for t in row if t["name"] == name] == [meant]


def test_boxes_and_words_tell_next_to_nothing_without_the_picture() -> None:
    rows = make(1, splits={"train": 1200, "test": 160}, objects=24)
    texts: dict[str, list[Row]] = {"train": [], "test": []}
    for record in rows:
        by, answer = record.meta["type"], Grounding.answer(record)
        assert answer
        own = Row(record.captions[0], answer, by, Grounding.choices(record))
        texts[record.split].append(own)
    found = score(texts["train"], texts["test"])
    assert list(found) == ["accuracy", "accuracy_name", "accuracy_relation"]
    # Chance is 25; a box around a banana is not that around a turtle, so that names tell a bit.
    assert all(15 < value < 45 for value in found.values())


def test_kinds_and_quarters_are_balanced(made: list[Record]) -> None:
    for split in ("train", "test"):
        rows = [record for record in made if record.split == split]
        by = Counter(record.meta["type"] for record in rows)
        assert by == dict.fromkeys(expressions.KINDS, len(rows) // 2)
        quarters = Counter(
            next(i for i, t in enumerate(r.meta["objects"]) if t["box"] == r.meta["box"])
            for r in rows
        )
        assert quarters == dict.fromkeys(range(4), len(rows) // 4)


def test_no_combination_is_in_two_splits_whatever_the_seed(made: list[Record]) -> None:
    together = made + make(2)
    splits: dict[frozenset[str], set[str]] = {}
    for record in together:
        splits.setdefault(frozenset(shown(record)), set()).add(record.split)
        assert split_of(shown(record)) == record.split
    assert all(len(found) == 1 for found in splits.values())
    assert len({record.image for record in together}) == len(together)
    for record in together:
        strange = any(describe.held_out(a, b) for a, b in itertools.combinations(shown(record), 2))
        assert record.meta["unseen"] is strange is unseen(shown(record))
        assert not (strange and record.split == "train")
    test = [record for record in made if record.split == "test"]
    assert sum(record.meta["unseen"] for record in test) == round(0.2 * len(test))
    assert len({frozenset(shown(record)) for record in test}) == len(test)


def test_the_order_of_the_things_does_not_change_the_split() -> None:
    names = [thing.name for thing in openmoji.things(6)]
    for some in itertools.chain(itertools.combinations(names, 4), itertools.combinations(names, 3)):
        assert {split_of(order) for order in itertools.permutations(some)} == {split_of(some)}


def test_boxes_hold_what_is_drawn(made: list[Record]) -> None:
    for record in made:
        pixels = np.asarray(Image.open(io.BytesIO(record.image))).astype(int)
        inside = np.zeros(pixels.shape[:2], bool)
        for thing in record.meta["objects"]:
            x, y, width, height = thing["box"]
            inside[y : y + height, x : x + width] = True
        outside = pixels[~inside]
        assert (outside == outside[0]).all()  # nothing but the background
        for thing in record.meta["objects"]:
            x, y, width, height = thing["box"]
            part = pixels[y : y + height, x : x + width]
            assert (np.abs(part - outside[0]).sum(-1) > 60).mean() > 0.2


def test_the_same_seed_gives_the_same_records_and_another_does_not() -> None:
    splits = {"train": 8, "test": 4}
    first, again, other = (make(seed, splits=splits) for seed in (1, 1, 2))
    assert first == again
    assert not {record.image for record in first} & {record.image for record in other}


def test_too_many_are_asked_for() -> None:
    with pytest.raises(ParamsError, match=r"splits\.val asks for .* raise objects"):
        make(1, objects=8, splits={"val": 5000})
    with pytest.raises(ParamsError, match="objects: input should be greater than or equal to 6"):
        make(1, objects=3)
