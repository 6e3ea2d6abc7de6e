"""Kind ``expressions``: four things in a picture, and an expression that means one of them.

Each stands in a quarter of the picture; the borders of the quarters, places, sizes and angles are
jittered. An expression names the thing, or, where the picture shows two of it, the one beside some
other thing. Neither tells where in the picture it is: without the picture, the words and the
boxes are little better than a guess. Which things stand together decides the split, by a hash.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from albef.builtin import describe, openmoji, view
from albef.builtin.studio import Canvas, Studio

KINDS = {"name": 4, "relation": 3}
"""How an expression tells its thing from the others, and how many different things the picture
shows then; they take turns."""
_QUARTERS = tuple(itertools.product((0, 1), (0, 1)))  # row and column
_BORDERS = (0.45, 0.55)  # where two quarters meet, share of the side
_SIZES = (0.34, 0.46)
_ANGLE = 20.0
_BUCKETS = {"train": 0.7, "val": 0.1, "test": 0.2}
_UNSEEN_BUCKETS = {"val": 0.4, "test": 0.6}
_UNSEEN = 0.2  # share of evaluated pictures that show what never stands together in training
_NOUN = "combinations of a kind"

Things = tuple[str, ...]


class Config(view.Drawn):
    """Pictures of four things, each with an expression that means one of them."""

    objects: Annotated[int, Field(ge=6, le=openmoji.MOST)]
    """How many different things there are."""
    splits: view.Splits
    """Number of pictures by split."""


@view.records()
def records(config: Config, seed: int) -> Iterator[view.Row]:
    """The pictures of all splits; ``box`` in their meta is the thing meant, ``proposals`` all four.

    Raises:
        ParamsError: there are fewer combinations of things than a split asks for.
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
            order = rng.sample(range(4), 4)  # proposals stand in no telling order
            meta = {
                "box": boxes[quarter],
                "proposals": [boxes[i] for i in order],
                "type": by,
                "objects": canvas.objects,
                "unseen": unseen(things),
            }
            yield view.Row(split, [canvas.png()], (expression(placed, quarter, by),), meta)


def split_of(things: Things) -> str:
    """The one split that may show just these things together."""
    buckets = _UNSEEN_BUCKETS if unseen(things) else _BUCKETS
    return describe.bucket("together " + " ".join(sorted(things)), buckets)


def unseen(things: Things) -> bool:
    """Whether two of the things never stand together in training."""
    return any(describe.held_out(a, b) for a, b in itertools.combinations(things, 2))


def arrange(things: Things, quarter: int, rng: random.Random) -> list[str]:
    """The things by quarter, row by row.

    Of three things the one in ``quarter`` comes twice, beside one other thing each or in a column:
    what stands beside tells the two apart.
    """
    first, neighbour, *others = rng.sample(things, len(things))
    others = rng.sample([*others, first][:2], 2)
    placed = [first] * 4
    placed[quarter ^ 1], placed[quarter ^ 2], placed[quarter ^ 3] = neighbour, *others
    return placed


def expression(placed: Sequence[str], quarter: int, by: str) -> str:
    """Words that mean the thing in a quarter.

    Args:
        placed: the things by quarter, row by row.
        quarter: of the thing meant.
        by: one of :data:`KINDS`.
    """
    suffix = f" beside the {placed[quarter ^ 1]}" if by == "relation" else ""
    return f"the {placed[quarter]}{suffix}"


def _plan(names: list[str], size: int, split: str, count: int, seed: str) -> list[Things]:
    """What each picture of a split shows, ``size`` things; they come again in training only."""
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
    """A picture with its objects by quarter."""
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
        while sprite.picture.width > right - left or sprite.picture.height > bottom - top:
            size *= 0.96
            sprite = studio.sprite(name, size, angle)
        x = rng.randint(left, right - sprite.picture.width)
        y = rng.randint(top, bottom - sprite.picture.height)
        canvas.put(sprite, x, y)
    return canvas
