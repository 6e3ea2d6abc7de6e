"""Kind ``expressions``: four objects in an image, and an expression that refers to one of them.

Each object is in a quarter of the image. The borders of the quarters, positions, sizes and angles
are jittered. An expression names the object. If the image shows two of that object, it means the
one beside another object. Neither reveals the position, so without the image, the words and the
boxes are little better than a guess. A hash of the objects that appear together decides the split.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from albef.builtin import describe, openmoji, view
from albef.builtin.studio import Canvas, Studio

KINDS = {"name": 4, "relation": 3}
"""Number of different objects in an image, by the kind of expression; kinds alternate.

An expression identifies its object by ``name`` or by ``relation`` to a neighbour.
"""
_QUARTERS = tuple(itertools.product((0, 1), (0, 1)))  # row and column
_BORDERS = (0.45, 0.55)  # border between two quarters, as a share of the side
_SIZES = (0.34, 0.46)
_ANGLE = 20.0
_BUCKETS = {"train": 0.7, "val": 0.1, "test": 0.2}
_UNSEEN_BUCKETS = {"val": 0.4, "test": 0.6}
_UNSEEN = 0.2  # share of evaluation images with objects that never appear together in training
_NOUN = "combinations of a kind"

Things = tuple[str, ...]


class Config(view.DrawnConfig):
    """Images of four objects, each with an expression that refers to one of them."""

    objects: Annotated[int, Field(ge=6, le=openmoji.MOST)]
    """Number of different objects in the dataset."""
    splits: view.Splits
    """Number of images by split."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """Yield the images of all splits.

    ``meta`` contains the box of the object that is meant as ``box``, and all four as ``proposals``.

    Raises:
        ParamsError: a split needs more combinations of objects than there are.
    """
    studio = Studio(config.objects, config.pixels)
    names = list(studio.names)
    for split, count in config.splits.items():
        plans = {
            by: iter(_plan(names, size, split, len(range(turn, count, len(KINDS))), f"{seed} {by}"))
            for turn, (by, size) in enumerate(KINDS.items())
        }
        for number, by in zip(range(count), itertools.cycle(KINDS), strict=False):
            things = next(plans[by])
            rng = random.Random(f"{seed} expressions {split} {number}")
            quarter = number // len(KINDS) % 4
            placed = arrange(things, quarter, rng)
            canvas = _draw(placed, studio, rng)
            boxes = [thing["box"] for thing in canvas.objects]
            order = rng.sample(range(4), 4)  # the order of proposals must not reveal the answer
            meta = {
                "box": boxes[quarter],
                "proposals": [boxes[i] for i in order],
                "type": by,
                "objects": canvas.objects,
                "unseen": unseen(things),
            }
            yield view.Row(split, [canvas.png()], (expression(placed, quarter, by),), meta)


def split_of(things: Things) -> str:
    """Return the only split that may show exactly these objects together."""
    buckets = _UNSEEN_BUCKETS if unseen(things) else _BUCKETS
    return describe.bucket("together " + " ".join(sorted(things)), buckets)


def unseen(things: Things) -> bool:
    """Return whether two of the objects never appear together in training."""
    return any(describe.held_out(a, b) for a, b in itertools.combinations(things, 2))


def arrange(things: Things, quarter: int, rng: random.Random) -> list[str]:
    """Return the objects by quarter, row by row.

    Of three objects, the one in ``quarter`` appears twice. Each copy has a different object beside
    it, which distinguishes the two. A copy may be above or below the other.
    """
    first, neighbour, *others = rng.sample(things, len(things))
    others = rng.sample([*others, first][:2], 2)
    placed = [first] * 4
    placed[quarter ^ 1], placed[quarter ^ 2], placed[quarter ^ 3] = neighbour, *others
    return placed


def expression(placed: Sequence[str], quarter: int, by: str) -> str:
    """Return words that refer ``by`` one of :data:`KINDS` to the object in a quarter."""
    suffix = f" beside the {placed[quarter ^ 1]}" if by == "relation" else ""
    return f"the {placed[quarter]}{suffix}"


def _plan(names: list[str], size: int, split: str, count: int, seed: str) -> list[Things]:
    """Return the objects of each image of a split, ``size`` objects per image."""
    pools: dict[bool, list[Things]] = {False: [], True: []}
    for things in itertools.combinations(names, size):
        if split_of(things) == split:
            pools[unseen(things)].append(things)
    rng = random.Random(f"{seed} expressions {split}")
    if split == "train":
        if count and not pools[False]:
            raise view.too_few(split, count, _NOUN, 0)
        return [rng.choice(pools[False]) for _ in range(count)]
    unseen_count = round(count * _UNSEEN)
    quotas = ((pools[True], unseen_count), (pools[False], count - unseen_count))
    return view.sample_each(quotas, split, _NOUN, rng)


def _draw(placed: Sequence[str], studio: Studio, rng: random.Random) -> Canvas:
    """Return an image with its objects by quarter."""
    canvas = Canvas(studio.pixels, rng)
    across = round(rng.uniform(*_BORDERS) * studio.pixels)
    rows = ((0, across), (across, studio.pixels))
    borders = [round(rng.uniform(*_BORDERS) * studio.pixels) for _ in rows]
    for name, (row, column) in zip(placed, _QUARTERS, strict=True):
        top, bottom = rows[row]
        left, right = ((0, borders[row]), (borders[row], studio.pixels))[column]
        size = rng.uniform(*_SIZES) * studio.pixels
        angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
        sprite = studio.sprite(name, size, angle)
        while sprite.image.width > right - left or sprite.image.height > bottom - top:
            size *= 0.96
            sprite = studio.sprite(name, size, angle)
        x = rng.randint(left, right - sprite.image.width)
        y = rng.randint(top, bottom - sprite.image.height)
        canvas.put(sprite, x, y)
    return canvas
