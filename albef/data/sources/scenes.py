"""Kind ``scenes``: one to four pictures in a scene, with true captions of what is where.

Everything is jittered in place, size and angle: on a bare grid the patches of a vision
transformer would line up with the pictures.
"""

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field, field_validator

from albef.config import ParamsError, Section
from albef.data.record import Record
from albef.data.sources import describe, openmoji
from albef.data.sources.describe import Scene
from albef.data.sources.pictures import GENERIC

LICENCES = openmoji.LICENCES
CHANGES = ("relation", "count", "object")
"""What the two scenes of a pair may differ in."""
_ONE_GROUP = 0.1  # share of scenes with a single group of things
_SIZES = {1: (0.5, 0.8), 2: (0.38, 0.5), 3: (0.34, 0.44), 4: (0.30, 0.40)}
_ANGLE = 20.0
_MARGIN = 0.03  # between two groups along the axis that tells them apart, share of the side
_OVERLAP = 0.05  # of two pictures, share of the smaller box
_ALONGSIDE = 0.4  # how far two groups share the other axis, share of the shorter
_TRIES = 8  # to place pictures before they are drawn smaller


class Config(Section):
    """Scenes of one to four pictures."""

    kind: Literal["scenes"]
    """This kind."""
    objects: Annotated[int, Field(ge=2, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Literal["train", "val", "test", "pairs"], Annotated[int, Field(ge=0)]]
    """Number of scenes by split; ``pairs`` holds scenes that differ two by two in one thing."""
    captions: Annotated[int, Field(ge=1, le=3)]
    """Number of different captions of a training scene; evaluated scenes have one."""
    caption_noise: Annotated[float, Field(ge=0, le=1)]
    """Share of training scenes whose captions are wrong or say nothing."""
    unseen: Annotated[float, Field(ge=0, le=1)]
    """Share of evaluated scenes whose things never stand together in a training scene."""

    @field_validator("splits")
    @classmethod
    def _even(cls, splits: dict[str, int]) -> dict[str, int]:
        if splits.get("pairs", 0) % 2:
            raise ValueError(f"pairs must be an even number, got {splits['pairs']}")
        return splits


def records(config: Config, seed: int) -> Iterator[Record]:
    """The scenes of all splits.

    Raises:
        ParamsError: there are fewer different scenes than a split asks for.
    """
    studio = _Studio(config)
    image_id = 0
    for split, count in config.splits.items():
        rng = random.Random(f"{seed} scenes {split}")
        if split == "train":
            plan = _training(studio, count, rng)
        elif split == "pairs":
            plan = _pairs(studio, count, rng)
        else:
            plan = _evaluation(studio, split, count, rng)
        for number, (scene, extra) in enumerate(plan):
            own = random.Random(f"{seed} scenes {split} {number}")
            noise: dict[str, Any] = {}
            if split == "train":
                told, noise = _training_captions(studio, scene, own)
            else:  # two captions of a pair are worded alike
                alike = random.Random(f"{seed} captions {split} {extra.get('pair', number)}")
                told = _evaluation_caption(studio, scene, alike)
            image, objects = studio.draw(scene, own)
            yield Record(
                key=f"{split}-{number:06d}",
                image=image,
                captions=told,
                image_id=image_id,
                split=split,
                source="scenes",
                meta={**scene.meta(), "objects": objects, **noise, **extra},
            )
            image_id += 1


Plan = list[tuple[Scene, dict[str, Any]]]


def _training(studio: "_Studio", count: int, rng: random.Random) -> Plan:
    ones, twos = studio.pool("train", groups=1), studio.pool("train", groups=2)
    if count and not (ones and twos):
        raise _too_few("train", count, len(ones) + len(twos))
    return [(rng.choice(ones if rng.random() < _ONE_GROUP else twos), {}) for _ in range(count)]


def _evaluation(studio: "_Studio", split: str, count: int, rng: random.Random) -> Plan:
    """Different scenes, the asked share of them with combinations that training never shows."""
    strange = round(count * studio.config.unseen)
    ones, twos = studio.pool(split, groups=1), studio.pool(split, groups=2)
    single = min(len(ones), round((count - strange) * _ONE_GROUP))
    chosen: list[Scene] = []
    for pool, wanted in (
        (ones, single),
        ([s for s in twos if not describe.unseen(s)], count - strange - single),
        ([s for s in twos if describe.unseen(s)], strange),
    ):
        if len(pool) < wanted:
            raise _too_few(split, wanted, len(pool))
        chosen += rng.sample(pool, wanted)
    rng.shuffle(chosen)
    return [(scene, {"unseen": describe.unseen(scene)}) for scene in chosen]


def _pairs(studio: "_Studio", count: int, rng: random.Random) -> Plan:
    """Two by two, scenes that differ in one thing; the changes take turns."""
    free = dict.fromkeys(studio.pool("pairs"))  # a dict keeps its order, a set none
    order = list(free)
    rng.shuffle(order)
    strange = round(count // 2 * studio.config.unseen)
    wanted = [number < strange for number in range(count // 2)]
    plan: Plan = []
    for number, is_unseen in enumerate(wanted):
        change = CHANGES[number % len(CHANGES)]
        pair = next(_partners(studio, order, free, change, is_unseen, rng), None)
        if pair is None:
            raise _too_few("pairs", count, 2 * number)
        for scene in pair:
            del free[scene]
            plan.append((scene, {"pair": number, "change": change, "unseen": is_unseen}))
    return plan


def _partners(
    studio: "_Studio",
    order: list[Scene],
    free: dict[Scene, None],
    change: str,
    is_unseen: bool,
    rng: random.Random,
) -> Iterator[tuple[Scene, Scene]]:
    for scene in order:
        if scene not in free or describe.unseen(scene) != is_unseen:
            continue
        others = [
            other
            for other in describe.changed(scene, change, list(studio.names))
            if other in free and describe.unseen(other) == is_unseen
        ]
        if others:
            yield scene, rng.choice(others)


def _too_few(split: str, wanted: int, found: int) -> ParamsError:
    return ParamsError(
        f"splits.{split} asks for {wanted} different scenes of a kind of which there are {found}: "
        f"lower splits.{split} or raise objects"
    )


def _training_captions(
    studio: "_Studio", scene: Scene, rng: random.Random
) -> tuple[tuple[str, ...], dict[str, Any]]:
    noise: dict[str, Any] = {}
    told = scene
    if rng.random() < studio.config.caption_noise:
        noise = {"noise": rng.choice(["wrong", "generic"])}
        if noise["noise"] == "generic":
            return (rng.choice(GENERIC),), noise
        told = studio.other(scene, rng)
    texts = [text for text, _ in describe.captions(told, studio.names, unmistakable=False)]
    return tuple(rng.sample(texts, min(studio.config.captions, len(texts)))), noise


def _evaluation_caption(studio: "_Studio", scene: Scene, rng: random.Random) -> tuple[str, ...]:
    texts = [text for text, _ in describe.captions(scene, studio.names, unmistakable=True)]
    return (rng.choice(texts),)


Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge of a picture in its place, in pixels."""
Sprite = tuple[Image.Image, dict[str, Any]]
"""A picture and what is known of it."""


class _Studio:
    """All scenes of a configuration, and the pictures they are made of."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.names = {thing.name: thing for thing in openmoji.things(config.objects)}
        self._artist = openmoji.Artist(config.pixels)
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

    def draw(self, scene: Scene, rng: random.Random) -> tuple[bytes, list[dict[str, Any]]]:
        """A picture of a canonical ``scene`` as PNG, and its objects in drawing order.

        An object is ``{"name", "box": [x, y, width, height] in pixels, "angle" in degrees
        counter-clockwise, "size": longer side before turning in pixels}``.
        """
        shrink = 1.0
        layout = None
        while layout is None:  # ever smaller, until everything finds a place
            sprites = self._sprites(scene, shrink, rng)
            tries = (self._layout(scene, sprites, rng) for _ in range(_TRIES))
            layout = next((found for found in tries if found), None)
            shrink *= 0.96
        canvas = openmoji.background(rng, self.config.pixels)
        objects = []
        drawn = (sprite for group in sprites for sprite in group)
        for (picture, facts), (left, top, right, bottom) in zip(drawn, layout, strict=True):
            canvas.paste(picture, (left, top), picture)
            objects.append({**facts, "box": [left, top, right - left, bottom - top]})
        return openmoji.png(canvas), objects

    def _sprites(self, scene: Scene, shrink: float, rng: random.Random) -> list[list[Sprite]]:
        """The pictures of each group, jittered in size and angle."""
        low, high = _SIZES[sum(group.count for group in scene.groups)]
        groups = []
        for group in scene.groups:
            drawn = []
            for _ in range(group.count):
                size = round(rng.uniform(low, high) * shrink * self.config.pixels, 1)
                angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
                sprite = self._artist.sprite(self.names[group.name], size, angle)
                drawn.append((sprite, {"name": group.name, "angle": angle, "size": size}))
            groups.append(drawn)
        return groups

    def _layout(
        self, scene: Scene, groups: list[list[Sprite]], rng: random.Random
    ) -> list[Box] | None:
        """A place for every picture, in order, or None where this try found none."""
        side = self.config.pixels
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
