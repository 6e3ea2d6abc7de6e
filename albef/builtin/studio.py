"""Drawing of scenes: the available objects, and an image of any scene of them."""

import functools
import io
import random
from typing import Any, NamedTuple

from PIL import Image

from albef.builtin import describe, grounds, openmoji
from albef.builtin.describe import Scene

NOVEL = 6
"""Maximum number of further objects, which only single-object images show."""
_SIZES = {1: (0.5, 0.8), 2: (0.38, 0.5), 3: (0.34, 0.44), 4: (0.30, 0.40)}
_ANGLE = 20.0
_MARGIN = 0.03  # gap between two groups along the axis of their relation, as a share of the side
_OVERLAP = 0.05  # overlap allowed between two drawings, as a share of the smaller box
_ALONGSIDE = 0.4  # overlap of two groups along the other axis, as a share of the shorter one
_TRIES = 8  # attempts to place the drawings before they are drawn smaller
_CARD = (90, 90, 90)
_THIN = 0.3  # share of varied drawings with thinner outlines

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge of a drawing in the image, in pixels."""


class Sprite(NamedTuple):
    """A drawn object at a size and angle, cropped to its visible part."""

    image: Image.Image
    name: str
    size: float
    angle: float


class Canvas:
    """A square image with a random background, and the objects drawn on it.

    Args:
        pixels: side of the image.
        rng: source of the background.
        ground: kind of background, one of :data:`grounds.KINDS`.

    Attributes:
        objects: visible objects in drawing order, each with ``name``, ``box`` ([x, y, width,
            height] in pixels), ``angle`` (degrees counter-clockwise) and ``size`` (longer side
            before rotation, in pixels).
    """

    def __init__(self, pixels: int, rng: random.Random, ground: str = "light") -> None:
        self._image = grounds.draw(pixels, rng, ground)
        self.objects: list[dict[str, Any]] = []

    def put(self, sprite: Sprite, x: int, y: int, *, visible: bool = True) -> None:
        """Draw a sprite at a position; list it as an object if it will be visible."""
        self._image.paste(sprite.image, (x, y), sprite.image)
        if visible:
            box = [x, y, *sprite.image.size]
            size = round(sprite.size, 1)
            self.objects.append(
                {"name": sprite.name, "box": box, "angle": sprite.angle, "size": size}
            )

    def cover(self, box: Box) -> None:
        """Draw a grey card over a part of the image."""
        self._image.paste(_CARD, box)

    def png(self) -> bytes:
        """Return the image as a PNG file; equal images give equal bytes."""
        file = io.BytesIO()
        self._image.save(file, "PNG", compress_level=1)
        return file.getvalue()


class Studio:
    """All scenes of a set of objects, and their drawings.

    Args:
        objects: number of different objects.
        pixels: side of an image.

    Attributes:
        names: objects by name.
        novel: further objects that no scene shows.
    """

    def __init__(self, objects: int, pixels: int) -> None:
        things = [(thing.name, thing) for thing in openmoji.things(objects + NOVEL)]
        self.names, self.novel = dict(things[:objects]), dict(things[objects:])
        self.pixels = pixels
        self._artist = openmoji.Artist(pixels)

    @functools.cached_property
    def _pools(self) -> dict[str, list[Scene]]:
        pools: dict[str, list[Scene]] = {}
        for scene in describe.scenes(list(self.names)):
            pools.setdefault(describe.split_of(scene), []).append(scene)
        return pools

    def pool(self, split: str, groups: int | None = None) -> list[Scene]:
        """Return the scenes that ``split`` may show, optionally only those of one or two groups."""
        pool = self._pools.get(split, [])
        return [scene for scene in pool if groups in (None, len(scene.groups))]

    def other(self, scene: Scene, rng: random.Random) -> Scene:
        """Return a training scene none of whose captions is true of ``scene``."""
        while True:
            other = rng.choice(self._pools["train"])
            if not set(other.groups) & set(scene.groups):
                return other

    def sprite(
        self, name: str, size: float, angle: float, rng: random.Random | None = None
    ) -> Sprite:
        """Return an object to put on a canvas, with its longer side in pixels before rotation.

        ``rng`` varies its colors and outlines.
        """
        thing = self.names.get(name) or self.novel[name]
        thin = rng is not None and rng.random() < _THIN
        image = self._artist.sprite(thing, size, angle, thin=thin)
        if rng is not None:
            image = grounds.recolored(image, rng)
        return Sprite(image, name, size, angle)

    def draw(
        self,
        scene: Scene,
        rng: random.Random,
        covered: int | None = None,
        ground: str = "light",
    ) -> Canvas:
        """Return an image of a canonical ``scene``.

        A grey card covers the side of group ``covered``, 0 or 1 of two. Drawings on a background of
        :data:`grounds.VARIED` vary, too.
        """
        shrink = 1.0
        layout = None
        while layout is None:  # shrink the drawings until all of them fit
            sprites = self._sprites(scene, shrink, rng, varied=ground in grounds.VARIED)
            tries = (self._layout(scene, sprites, rng) for _ in range(_TRIES))
            layout = next((boxes for boxes in tries if boxes), None)
            shrink *= 0.96
        canvas = Canvas(self.pixels, rng, ground)
        placed = ((index, sprite) for index, group in enumerate(sprites) for sprite in group)
        for (index, sprite), (left, top, _, _) in zip(placed, layout, strict=True):
            canvas.put(sprite, left, top, visible=index != covered)
        if covered is not None:
            canvas.cover(self._card(scene, layout, covered))
        return canvas

    def _card(self, scene: Scene, layout: list[Box], covered: int) -> Box:
        """Return the side of the image that one group has to itself."""
        axis = 1 if scene.relation == "above" else 0
        count = scene.groups[0].count
        first_ends = max(box[axis + 2] for box in layout[:count])
        second_begins = min(box[axis] for box in layout[count:])
        card = [0, 0, self.pixels, self.pixels]
        card[axis + 2 * (1 - covered)] = (first_ends + second_begins) // 2
        return card[0], card[1], card[2], card[3]

    def _sprites(
        self, scene: Scene, shrink: float, rng: random.Random, *, varied: bool
    ) -> list[list[Sprite]]:
        """Return the sprites of each group, jittered in size and angle."""
        low, high = _SIZES[sum(group.count for group in scene.groups)]

        def jittered(name: str) -> Sprite:
            size = round(rng.uniform(low, high) * shrink * self.pixels, 1)
            angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
            return self.sprite(name, size, angle, rng if varied else None)

        return [[jittered(group.name) for _ in range(group.count)] for group in scene.groups]

    def _layout(
        self, scene: Scene, groups: list[list[Sprite]], rng: random.Random
    ) -> list[Box] | None:
        """Return a box for every sprite, in order, or None if this attempt fails."""
        side = self.pixels
        axis = 1 if scene.relation == "above" else 0
        bands = [(0, side)]
        if len(groups) == 2:
            first, second = (max(s.image.size[axis] for s in group) for group in groups)
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
            for sprite in group:
                box = _place(sprite.image.size, ranges, boxes, rng)
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
    existing: list[Box],
    rng: random.Random,
) -> Box | None:
    """Return a random box within the ranges of x and y that is clear of ``existing``, or None."""
    (left, right), (top, bottom) = ranges
    width, height = size
    xs, ys = range(left, right - width + 1), range(top, bottom - height + 1)
    if not (xs and ys):
        return None
    for _ in range(20):
        x, y = rng.choice(xs), rng.choice(ys)  # randint draws the same, more slowly
        box = (x, y, x + width, y + height)
        if all(_clear(box, other) for other in existing):
            return box
    return None


def _clear(a: Box, b: Box) -> bool:
    """Return whether two boxes share at most a sliver of the smaller one."""
    if a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]:
        return True
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height <= _OVERLAP * smaller


def _alongside(first: list[Box], second: list[Box], axis: int) -> bool:
    """Return whether two groups share so much of ``axis`` that it implies no relation."""
    (a, b), (c, d) = (
        (min(box[axis] for box in group), max(box[axis + 2] for box in group))
        for group in (first, second)
    )
    return min(b, d) - max(a, c) >= _ALONGSIDE * min(b - a, d - c)
