"""Pictures of scenes: they show what their description says, and nothing else."""

import random
from collections import Counter

import numpy as np

from albef.builtin.studio import Studio
from albef.data.record import Record
from tests.builtin.drawn import draw, inside, pixels_of, scene_of


def spans(record: Record, name: str, axis: int) -> tuple[int, int]:
    boxes = [thing["box"] for thing in record.meta["objects"] if thing["name"] == name]
    return min(b[axis] for b in boxes), max(b[axis] + b[axis + 2] for b in boxes)


def test_the_image_shows_what_the_description_says() -> None:
    for record in draw("scenes"):
        scene = scene_of(record)
        placed = Counter(thing["name"] for thing in record.meta["objects"])
        assert placed == {group.name: group.count for group in scene.groups}
        if scene.relation is None:
            continue
        axis = {"left": 0, "above": 1}[str(scene.relation)]
        first, second = (spans(record, group.name, axis) for group in scene.groups)
        assert first[1] + 2 <= second[0]
        first, second = (spans(record, group.name, 1 - axis) for group in scene.groups)
        assert min(first[1], second[1]) > max(first[0], second[0])  # no relation on this axis


def test_boxes_hold_all_that_is_drawn_and_hardly_overlap() -> None:
    studio, rng = Studio(12, 48), random.Random(1)
    for scene in studio.pool("train")[::7]:
        canvas = studio.draw(scene, rng, ground="light")
        meta = {"objects": canvas.objects}
        record = Record("a", canvas.png(), ("a",), 0, "train", "scenes", meta)
        pixels, boxes = pixels_of(record), inside(record)
        assert pixels.shape == (48, 48, 3)
        colours, counts = np.unique(pixels[~boxes], axis=0, return_counts=True)
        background = colours[counts.argmax()]
        assert (background >= 200).all()
        drawn = np.abs(pixels - background).sum(-1) > 90
        assert not (drawn & ~boxes).any()
        area = 0
        for thing in record.meta["objects"]:
            x, y, width, height = thing["box"]
            assert drawn[y : y + height, x : x + width].any()
            area += width * height
        assert boxes.sum() >= 0.85 * area


def test_a_card_hides_a_side_whole_and_nothing_else() -> None:
    for record in draw("statements"):
        grey = (pixels_of(record) == 90).all(axis=2)
        scene = scene_of(record)
        seen = Counter(thing["name"] for thing in record.meta["objects"])
        assert seen == {g.name: g.count for g in scene.groups if g.name != record.meta["covered"]}
        if record.meta["covered"] is None:
            continue
        axis = int(scene.relation == "above")
        side = np.flatnonzero(grey.all(axis=axis))
        assert len(side)
        assert (np.diff(side) == 1).all()
        for thing in record.meta["objects"]:
            begin = thing["box"][axis]
            assert not set(range(begin, begin + thing["box"][axis + 2])) & set(side.tolist())
