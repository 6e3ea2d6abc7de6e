"""Records of a split in batches, and their pictures on the model's device."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from albef.data.record import Record
from albef.distributed import world
from albef.preprocessing.transforms import SCALE, SHIFT, Evaluate

Batch = dict[str, Tensor]
"""Tensors of a batch by name, (B, ...) each but for what an example may have several of."""
Collate = Callable[[Sequence[Record], np.random.Generator], Batch]
"""Decodes, augments, tokenises and stacks; runs in data workers, so it holds no model."""
Pairs = Sequence[tuple[int, str]]
"""Places of records, and a text for the picture of each."""


class Records(Protocol):
    """A split, read record by record."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """The record at a place, from 0."""


class Part:
    """Records of a split from one place to another, or to its end."""

    def __init__(self, records: Records, start: int, stop: int | None) -> None:
        self._records = records
        self._places = range(len(records))[start:stop]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        return self._records[self._places[index]]


class Retold:
    """Records of a split with other sentences.

    Args:
        records: of the split.
        pairs: which of them, and the sentence of each.
    """

    def __init__(self, records: Records, pairs: Pairs) -> None:
        self._records, self._pairs = records, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        place, text = self._pairs[index]
        return replace(self._records[place], captions=(text,))


def shared(count: int, size: int) -> list[range]:
    """This process' batches of so many things, of at most ``size`` each: cut alike whatever the
    number of processes, so that their results are."""
    batches = world().share(-(-count // size))
    return [range(i * size, min((i + 1) * size, count)) for i in batches]


def read_batch(
    records: Records, stack: Callable[[Sequence[Record]], Tensor] | None, places: range
) -> tuple[list[Record], Tensor]:
    """The records at ``places``, and what ``stack`` makes of their pictures, if anything."""
    rows = [records[i] for i in places]
    return rows, stack(rows) if stack else torch.empty(0)


def pictures(records: Sequence[Record], resize: Evaluate) -> Tensor:
    """The first picture of each record, in bytes (B, 3, S, S)."""
    return torch.from_numpy(np.stack([resize.pixels(row.image, row.key) for row in records]))


def distinct(records: Sequence[Record]) -> tuple[list[Record], list[int]]:
    """A record of each picture, in order, and which of these each record's is."""
    by_picture = {record.image_id: record for record in records}
    places = {image_id: i for i, image_id in enumerate(by_picture)}
    return [*by_picture.values()], [places[record.image_id] for record in records]


def distinct_pictures(records: Sequence[Record], resize: Evaluate) -> Tensor:
    """:func:`pictures`, each once: what several records share is decoded and encoded once."""
    return pictures(distinct(records)[0], resize)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``, copied without waiting where memory is pinned.

    Pictures that are bytes still, as training's are, are normalised there: (..., 3, H, W).
    """
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    return {n: _normalised(t) if t.dtype == torch.uint8 else t for n, t in moved.items()}


def _normalised(pixels: Tensor) -> Tensor:
    """The numbers of :func:`albef.preprocessing.transforms.normalised`, without a wait for the
    device."""
    if pixels.device.type == "cpu":  # colours lie side by side, as decoders give them
        pixels = pixels.movedim(-3, -1).contiguous().movedim(-1, -3)
    values = pixels.float()
    for channel, (scale, shift) in enumerate(zip(SCALE.flat, SHIFT.flat, strict=True)):
        # Python's numbers: nothing is copied to the device, which would be waited for.
        values[..., channel, :, :].mul_(float(scale)).sub_(float(shift))
    return values
