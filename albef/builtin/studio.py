"""Where scenes are drawn: the things there are, and a picture of any scene of them."""

import random
from typing import Any

from PIL import Image

from albef.builtin import describe, openmoji
from albef.builtin.describe import Scene

_SIZES = {1: (0.5, 0.8), 2: (0.38, 0.5), 3: (0.34, 0.44), 4: (0.30, 0.40)}
_ANGLE = 20.0
_MARGIN = 0.03  # between two groups along the axis that tells them apart, share of the side
_OVERLAP = 0.05  # of two pictures, share of the smaller box
_ALONGSIDE = 0.4  # how far two groups share the other axis, share of the shorter
_TRIES = 8  # to place pictures before they are drawn smaller
_CARD = (90, 90, 90)

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge of a picture in its place, in pixels."""
Sprite = tuple[Image.Image, dict[str, Any]]
"""A picture and what is known of it."""


class Studio:
    """All scenes of some things, and the pictures they are made of.

    Args:
        objects: how many different things there are.
        pixels: side of a picture.

    Attributes:
        names: the things by name.
    """

    def __init__(self, objects: int, pixels: int) -> None:
        self.names = {thing.name: thing for thing in openmoji.things(objects)}
        self._pixels = pixels
        self._artist = openmoji.Artist(pixels)
        self._pools: dict[str, list[Scene]] = {}
        for scene in describe.scenes(list(self.names)):
            self._pools.setdefault(describe.split_of(scene), []).append(scene)

    def pool(self, split: str, groups: int | None = None) -> list[Scene]:
        """The scenes that ``split`` may show, optionally those of one or of two groups."""
        pool = self._pools.get(split, [])
        return [scene for scene in pool if groups in (None, len(scene.groups))]

    def other(self, scene: Scene, rng: random.Random) -> Scene:
        """A training scene none of whose captions is true of ``scene``."""
        while True:
            other = rng.choice(self._pools["train"])
            wordings = describe.captions(other, self.names, unmistakable=False)
            if not any(describe.true_of(claim, scene) for _, claim in wordings):
                return other

    def draw(
        self, scene: Scene, rng: random.Random, covered: int | None = None
    ) -> tuple[bytes, list[dict[str, Any]]]:
        """A picture of a canonical ``scene`` as PNG, and its visible objects in drawing order.

        An object is ``{"name", "box": [x, y, width, height] in pixels, "angle" in degrees
        counter-clockwise, "size": longer side before turning in pixels}``.

        Args:
            scene: what to draw.
            rng: of everything that is jittered.
            covered: the group, 0 or 1 of two, over whose side of the picture a grey card lies.
        """
        shrink = 1.0
        layout = None
        while layout is None:  # ever smaller, until everything finds a place
            sprites = self._sprites(scene, shrink, rng)
            tries = (self._layout(scene, sprites, rng) for _ in range(_TRIES))
            layout = next((found for found in tries if found), None)
            shrink *= 0.96
        canvas = openmoji.background(rng, self._pixels)
        objects = []
        drawn = ((place, sprite) for place, group in enumerate(sprites) for sprite in group)
        for (place, (picture, facts)), box in zip(drawn, layout, strict=True):
            left, top, right, bottom = box
            canvas.paste(picture, (left, top), picture)
            if place != covered:
                objects.append({**facts, "box": [left, top, right - left, bottom - top]})
        if covered is not None:
            canvas.paste(_CARD, self._card(scene, layout, covered))
        return openmoji.png(canvas), objects

    def _card(self, scene: Scene, layout: list[Box], covered: int) -> Box:
        """The side of the picture that a group has to itself: its size tells nothing of it."""
        axis = 1 if scene.relation == "above" else 0
        count = scene.groups[0].count
        first_ends = max(box[axis + 2] for box in layout[:count])
        second_begins = min(box[axis] for box in layout[count:])
        card = [0, 0, self._pixels, self._pixels]
        card[axis + 2 * (1 - covered)] = (first_ends + second_begins) // 2
        return card[0], card[1], card[2], card[3]

    def _sprites(self, scene: Scene, shrink: float, rng: random.Random) -> list[list[Sprite]]:
        """The pictures of each group, jittered in size and angle."""
        low, high = _SIZES[sum(group.count for group in scene.groups)]
        groups = []
        for group in scene.groups:
            drawn = []
            for _ in range(group.count):
                size = round(rng.uniform(low, high) * shrink * self._pixels, 1)
                angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
                sprite = self._artist.sprite(self.names[group.name], size, angle)
                drawn.append((sprite, {"name": group.name, "angle": angle, "size": size}))
            groups.append(drawn)
        return groups

    def _layout(
        self, scene: Scene, groups: list[list[Sprite]], rng: random.Random
    ) -> list[Box] | None:
        """A place for every picture, in order, or None where this try found none."""
        side = self._pixels
        axis = 1 if scene.relation == "above" else 0
        bands = [(0, side)]
        if len(groups) == 2:
            first, second = (max(p.size[axis] for p, _ in group) for group in groups)
            margin = max(2, round(_MARGIN * side))
            room = side - margin - first - second
            if room < 0:
                return None
            cut = first + rng.randint(0, room)
            bands = [(0, cut), (cut + margin, side)]

        boxes: list[Box] = []
        for group, band in zip(groups, bands, strict=True):
            ranges = [(0, side), (0, side)]
            ranges[axis] = band
            for picture, _ in group:
                box = _place(picture.size, ranges, boxes, rng)
                if box is None:
                    return None
                boxes.append(box)
        count = len(groups[0])
        if len(groups) == 2 and not _alongside(boxes[:count], boxes[count:], 1 - axis):
            return None
        return boxes


def _place(
    size: tuple[int, int],
    ranges: list[tuple[int, int]],
    others: list[Box],
    rng: random.Random,
) -> Box | None:
    """A random box within the ranges of x and y that is clear of ``others``, or None."""
    (left, right), (top, bottom) = ranges
    width, height = size
    if right - left < width or bottom - top < height:
        return None
    for _ in range(20):
        x = rng.randint(left, right - width)
        y = rng.randint(top, bottom - height)
        box = (x, y, x + width, y + height)
        if all(_clear(box, other) for other in others):
            return box
    return None


def _clear(a: Box, b: Box) -> bool:
    """Whether two boxes share no more than a sliver of the smaller."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return True
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height <= _OVERLAP * min(areas)


def _alongside(first: list[Box], second: list[Box], axis: int) -> bool:
    """Whether two groups share enough of ``axis`` that it tells no relation between them."""
    (a, b), (c, d) = (
        (min(box[axis] for box in group), max(box[axis + 2] for box in group))
        for group in (first, second)
    )
    return min(b, d) - max(a, c) >= _ALONGSIDE * min(b - a, d - c)
