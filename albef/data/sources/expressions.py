"""Kind ``expressions``: four different things in a picture, and an expression that means one.

Each stands in a quarter of the picture; the borders of the quarters, places, sizes and angles are
jittered. An expression names the thing, alone, by a neighbour or by its quarter. Which four things
stand together decides the split, by a hash.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from albef.config import ParamsError, Section
from albef.data.record import Record
from albef.data.sources import describe, openmoji

LICENCES = openmoji.LICENCES
KINDS = ("name", "relation", "position")
"""How an expression tells its thing from the others; they take turns."""
_QUARTERS = tuple(itertools.product((0, 1), (0, 1)))  # row and column
_ROWS, _COLUMNS = ("top", "bottom"), ("left", "right")
_BORDERS = (0.45, 0.55)  # where two quarters meet, share of the side
_SIZES = (0.34, 0.46)
_ANGLE = 20.0
_BUCKETS = {"train": 0.7, "val": 0.1, "test": 0.2}
_UNSEEN_BUCKETS = {"val": 0.4, "test": 0.6}
_UNSEEN = 0.2  # share of evaluated pictures that show what never stands together in training

Split = Literal["train", "val", "test"]
Four = tuple[str, ...]


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
    pools: dict[tuple[str, bool], list[Four]] = {}
    for some in itertools.combinations(names, 4):
        pools.setdefault((split_of(some), unseen(some)), []).append(some)
    image_id = 0
    for split, count in config.splits.items():
        rng = random.Random(f"{seed} expressions {split}")
        for number, four in enumerate(_plan(pools, split, count, rng)):
            own = random.Random(f"{seed} expressions {split} {number}")
            placed = own.sample(four, 4)  # by quarter, row by row
            by = KINDS[number % len(KINDS)]
            quarter = number // len(KINDS) % 4
            image, objects = _draw(placed, names, artist, config.pixels, own)
            shown = own.sample(range(4), 4)  # proposals stand in no telling order
            yield Record(
                key=f"{split}-{number:06d}",
                image=image,
                captions=(expression(placed, quarter, by, own),),
                image_id=image_id,
                split=split,
                source="expressions",
                meta={
                    "box": objects[quarter]["box"],
                    "proposals": [objects[i]["box"] for i in shown],
                    "by": by,
                    "objects": objects,
                    "unseen": unseen(four),
                },
            )
            image_id += 1


def split_of(four: Four) -> str:
    """The one split that may show these four things together."""
    share = describe.hashed("four " + " ".join(sorted(four)))
    buckets = _UNSEEN_BUCKETS if unseen(four) else _BUCKETS
    for name, width in buckets.items():
        share -= width
        if share < 0:
            return name
    return "test"


def unseen(four: Four) -> bool:
    """Whether two of the things never stand together in training."""
    return any(describe.held_out(a, b) for a, b in itertools.combinations(four, 2))


def expression(placed: list[str], quarter: int, by: str, rng: random.Random) -> str:
    """Words that mean the thing in a quarter.

    Args:
        placed: the things by quarter, row by row.
        quarter: of the thing meant.
        by: one of :data:`KINDS`.
        rng: draws the neighbour that a relation names.
    """
    row, column = _QUARTERS[quarter]
    name = placed[quarter]
    if by == "name":
        return f"the {name}"
    if by == "position":
        return f"the {name} at the {_ROWS[row]} {_COLUMNS[column]}"
    if rng.random() < 0.5:  # the neighbour beside it, else the one above or below
        return f"the {name} {_COLUMNS[column]} of the {placed[quarter ^ 1]}"
    return f"the {name} {('above', 'below')[row]} the {placed[quarter ^ 2]}"


def _plan(
    pools: dict[tuple[str, bool], list[Four]], split: str, count: int, rng: random.Random
) -> list[Four]:
    """What each picture of a split shows; combinations come again in training only."""
    plain = pools.get((split, False), [])
    if split == "train":
        if count and not plain:
            raise _too_few(split, count, 0)
        return [rng.choice(plain) for _ in range(count)]
    strange = round(count * _UNSEEN)
    chosen: list[Four] = []
    for pool, wanted in ((pools.get((split, True), []), strange), (plain, count - strange)):
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
    placed: list[str],
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
