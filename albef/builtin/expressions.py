"""Kind ``expressions``: four things in a picture, and an expression that means one of them.

Each stands in a quarter of the picture; the borders of the quarters, places, sizes and angles are
jittered. An expression names the thing, or, where the picture shows two of it, the one beside some
other thing. Neither tells where in the picture it is: without the picture, the words and the
boxes are little better than a guess. Which things stand together decides the split, by a hash.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from albef.builtin import describe, openmoji
from albef.config import ParamsError, Section
from albef.data.record import Record

LICENCES, inputs = openmoji.LICENCES, openmoji.inputs
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

Split = Literal["train", "val", "test"]
Shown = tuple[str, ...]


class Config(Section):
    """Pictures of four things, each with an expression that means one of them."""

    kind: Literal["expressions"]
    """This kind."""
    objects: Annotated[int, Field(ge=6, le=openmoji.MOST)]
    """How many different things there are."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of a picture."""
    splits: dict[Split, Annotated[int, Field(ge=0)]]
    """Number of pictures by split."""


def records(config: Config, seed: int) -> Iterator[Record]:
    """The pictures of all splits; ``box`` in their meta is the thing meant, ``proposals`` all four.

    Raises:
        ParamsError: there are fewer combinations of things than a split asks for.
    """
    names = {thing.name: thing for thing in openmoji.things(config.objects)}
    artist = openmoji.Artist(config.pixels)
    image_id = 0
    for split, count in config.splits.items():
        plans = [
            iter(_plan(names, size, split, len(range(turn, count, len(KINDS))), f"{seed} {by}"))
            for turn, (by, size) in enumerate(KINDS.items())
        ]
        for number in range(count):
            turn, by = number % len(KINDS), tuple(KINDS)[number % len(KINDS)]
            things = next(plans[turn])
            rng = random.Random(f"{seed} expressions {split} {number}")
            quarter = number // len(KINDS) % 4
            placed = arrange(things, quarter, rng)
            image, objects = _draw(placed, names, artist, config.pixels, rng)
            order = rng.sample(range(4), 4)  # proposals stand in no telling order
            yield Record(
                key=f"{split}-{number:06d}",
                image=image,
                captions=(expression(placed, quarter, by),),
                image_id=image_id,
                split=split,
                source="expressions",
                meta={
                    "box": objects[quarter]["box"],
                    "proposals": [objects[i]["box"] for i in order],
                    "type": by,
                    "objects": objects,
                    "unseen": unseen(things),
                },
            )
            image_id += 1


def split_of(things: Shown) -> str:
    """The one split that may show just these things together."""
    share = describe.hashed("together " + " ".join(sorted(things)))
    buckets = _UNSEEN_BUCKETS if unseen(things) else _BUCKETS
    for name, width in buckets.items():
        share -= width
        if share < 0:
            return name
    return "test"


def unseen(things: Shown) -> bool:
    """Whether two of the things never stand together in training."""
    return any(describe.held_out(a, b) for a, b in itertools.combinations(things, 2))


def arrange(things: Shown, quarter: int, rng: random.Random) -> list[str]:
    """The things by quarter, row by row.

    Of three things the one in ``quarter`` comes twice, beside one other thing each or in a column:
    what stands beside tells the two apart.
    """
    first, beside, *rest = rng.sample(things, len(things))
    rest = rng.sample([*rest, first][:2], 2)
    placed = [first] * 4
    placed[quarter ^ 1], placed[quarter ^ 2], placed[quarter ^ 3] = beside, *rest
    return placed


def expression(placed: Sequence[str], quarter: int, by: str) -> str:
    """Words that mean the thing in a quarter.

    Args:
        placed: the things by quarter, row by row.
        quarter: of the thing meant.
        by: one of :data:`KINDS`.
    """
    beside = f" beside the {placed[quarter ^ 1]}" if by == "relation" else ""
    return f"the {placed[quarter]}{beside}"


def _plan(names: Iterable[str], size: int, split: str, count: int, seed: str) -> list[Shown]:
    """What each picture of a split shows, ``size`` things; they come again in training only."""
    pools: dict[bool, list[Shown]] = {False: [], True: []}
    for some in itertools.combinations(names, size):
        if split_of(some) == split:
            pools[unseen(some)].append(some)
    rng = random.Random(f"{seed} expressions {split}")
    if split == "train":
        if count and not pools[False]:
            raise _too_few(split, count, 0)
        return [rng.choice(pools[False]) for _ in range(count)]
    strange = round(count * _UNSEEN)
    chosen: list[Shown] = []
    for pool, wanted in ((pools[True], strange), (pools[False], count - strange)):
        if len(pool) < wanted:
            raise _too_few(split, wanted, len(pool))
        chosen += rng.sample(pool, wanted)
    rng.shuffle(chosen)
    return chosen


def _too_few(split: str, wanted: int, found: int) -> ParamsError:
    return ParamsError(
        f"splits.{split} asks for {wanted} different combinations of a kind of which there are "
        f"{found}: lower splits.{split} or raise objects"
    )


def _draw(
    placed: Sequence[str],
    names: dict[str, openmoji.Thing],
    artist: openmoji.Artist,
    pixels: int,
    rng: random.Random,
) -> tuple[bytes, list[dict[str, Any]]]:
    """A picture as PNG, and its objects by quarter, as :meth:`Studio.draw` tells them."""
    canvas = openmoji.background(rng, pixels)
    across = round(rng.uniform(*_BORDERS) * pixels)
    rows = ((0, across), (across, pixels))
    borders = [round(rng.uniform(*_BORDERS) * pixels) for _ in rows]
    objects = []
    for name, (row, column) in zip(placed, _QUARTERS, strict=True):
        top, bottom = rows[row]
        left, right = ((0, borders[row]), (borders[row], pixels))[column]
        size = rng.uniform(*_SIZES) * pixels
        angle = round(rng.uniform(-_ANGLE, _ANGLE), 1)
        sprite = artist.sprite(names[name], size, angle)
        while sprite.width > right - left or sprite.height > bottom - top:
            size *= 0.96
            sprite = artist.sprite(names[name], size, angle)
        x = rng.randint(left, right - sprite.width)
        y = rng.randint(top, bottom - sprite.height)
        canvas.paste(sprite, (x, y), sprite)
        box = [x, y, sprite.width, sprite.height]
        objects.append({"name": name, "box": box, "angle": angle, "size": round(size, 1)})
    return openmoji.png(canvas), objects
