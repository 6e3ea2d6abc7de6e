"""Shared parts of the built-in kinds: their values, and the conversion of drawings to records."""

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field

from albef.builtin import openmoji
from albef.config import ParamsError, Section
from albef.data.record import Record

Count = Annotated[int, Field(ge=0)]
T = TypeVar("T")


class DrawnConfig(Section):
    """A built-in source. The ``Config`` of each kind derives from it."""

    kind: str
    """Name of the kind."""
    objects: Annotated[int, Field(ge=2, le=openmoji.MOST)]
    """Number of different objects in the dataset."""
    pixels: Annotated[int, Field(ge=32, le=4096)]
    """Side of an image in pixels."""
    splits: dict[Any, Count]
    """Number of records by split."""

    def inputs(self) -> dict[str, Path]:
        """Return the files that the source reads, by name: the font."""
        return openmoji.inputs()

    def terms(self) -> list[Mapping[str, str]]:
        """Return the licences of its records."""
        return list(openmoji.LICENCES)

    def evaluated(self) -> Self | None:
        """Return the source without its training split; None if nothing is left."""
        others = {split: count for split, count in self.splits.items() if split != "train"}
        return self.model_copy(update={"splits": others}) if others else None


D = TypeVar("D", bound=DrawnConfig)
Splits = dict[Literal["train", "val", "test"], Count]


class Row(NamedTuple):
    """A record before it has a key and an image id."""

    split: str
    images: Sequence[bytes]
    captions: tuple[str, ...]
    meta: dict[str, Any]
    same_image: bool = False
    """True if it shows the same image as the row before."""


def records(
    *, across: bool = False
) -> Callable[[Callable[[D, int], Iterator[Row]]], Callable[[D, int], Iterator[Record]]]:
    """Return a decorator that turns drawn rows into records with keys and image ids.

    Keys are numbered within each split, or ``across`` splits.
    """

    def of_rows(rows: Callable[[D, int], Iterator[Row]]) -> Callable[[D, int], Iterator[Record]]:
        @functools.wraps(rows)
        def numbered(config: D, seed: int) -> Iterator[Record]:
            image_id = -1
            counts: Counter[str] = Counter()
            for row in rows(config, seed):
                image_id += not row.same_image
                number = counts.total() if across else counts[row.split]
                counts[row.split] += 1
                first, *more = row.images
                yield Record(
                    f"{row.split}-{number:06d}", first, row.captions, image_id, row.split,
                    config.kind, row.meta, tuple(more),
                )  # fmt: skip

        return numbered

    return of_rows


def sample_each(
    pools: Iterable[tuple[Sequence[T], int]], split: str, noun: str, rng: random.Random
) -> list[T]:
    """Return the required number of different items of each pool, shuffled.

    Raises:
        ParamsError: a pool has too few items.
    """
    chosen: list[T] = []
    for pool, required in pools:
        if len(pool) < required:
            raise too_few(split, required, noun, len(pool))
        chosen += rng.sample(pool, required)
    rng.shuffle(chosen)
    return chosen


def too_few(split: str, required: int, noun: str, available: int) -> ParamsError:
    """Return the error for a split that needs more items than there are."""
    return ParamsError(
        f"splits.{split} needs {required} different {noun}, but only {available} exist: "
        f"lower splits.{split} or increase objects"
    )
