"""Records of a split in batches, and their images on the model's device."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from albef.data.record import Record
from albef.distributed import world
from albef.preprocessing.transforms import SCALE, SHIFT

Batch = dict[str, Tensor]
"""Tensors of a batch by name. Each is (B, ...) unless an example may have several entries."""
Collate = Callable[[Sequence[Record], np.random.Generator], Batch]
"""Function that decodes, augments, tokenizes and stacks. It runs in data workers without a
model."""
Pairs = Sequence[tuple[int, str]]
"""Indices of records, and a text for the image of each."""


class ImageTransform(Protocol):
    """Function that makes a training's input of an image: augmented pixels, or cached states."""

    def __call__(self, image: bytes, rng: np.random.Generator, key: str = "", /) -> NDArray[Any]:
        """Return the input of an encoded image; ``key`` names its record in errors."""


class Resize(Protocol):
    """Function that makes the model's input of an image: :class:`Evaluate`, or a cache."""

    def pixels(self, image: bytes, key: str = "", /) -> NDArray[Any]:
        """Return the pixels (3, S, S) of an encoded image in bytes, or what a cache holds of it."""


class Records(Protocol):
    """A split, read record by record."""

    def __len__(self) -> int:
        """Return the number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """Return the record at an index, from 0."""


class Part:
    """Records of a split from one index to another, or to its end."""

    def __init__(self, records: Records, start: int, stop: int | None) -> None:
        self._records = records
        self._indices = range(len(records))[start:stop]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._records[self._indices[index]]


class RecaptionedRecords:
    """Records of a split with other captions, given by the pairs."""

    def __init__(self, records: Records, pairs: Pairs) -> None:
        self._records, self._pairs = records, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        record, text = self._pairs[index]
        return replace(self._records[record], captions=(text,))


def shared(count: int, size: int) -> list[range]:
    """Return this process' batches of ``count`` items, of at most ``size`` each.

    The batches are the same for any number of processes, so the results are equal too.
    """
    batches = world().share(-(-count // size))
    return [range(i * size, min((i + 1) * size, count)) for i in batches]


def read_batch(
    records: Records, stack: Callable[[Sequence[Record]], Tensor] | None, indices: range
) -> tuple[list[Record], Tensor]:
    """Return the records at ``indices``, and their images as stacked by ``stack``, if it is set."""
    rows = [records[i] for i in indices]
    return rows, stack(rows) if stack else torch.empty(0)


def stack_images(records: Sequence[Record], resize: Resize) -> Tensor:
    """Return the first image of each record, in bytes (B, 3, S, S), or its cached states."""
    return torch.from_numpy(np.stack([resize.pixels(row.image, row.key) for row in records]))


def distinct(records: Sequence[Record]) -> tuple[list[Record], list[int]]:
    """Return one record of each image, in order, and for each record the index of its image."""
    by_image = {record.image_id: record for record in records}
    positions = {image_id: i for i, image_id in enumerate(by_image)}
    return [*by_image.values()], [positions[record.image_id] for record in records]


def stack_distinct_images(records: Sequence[Record], resize: Resize) -> Tensor:
    """Return :func:`stack_images`, each image once: a shared image is decoded and encoded once."""
    return stack_images(distinct(records)[0], resize)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on ``device``, copied without waiting if memory is pinned.

    Images that are still bytes, as in training, are normalized there: (..., 3, H, W).
    """
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    return {n: normalize_pixels(t) if t.dtype == torch.uint8 else t for n, t in moved.items()}


def normalize_pixels(pixels: Tensor) -> Tensor:
    """Normalize pixels (..., 3, S, S) from 0 to 255 with CLIP's mean and standard deviation.

    :class:`Transform` returns such pixels; :class:`Evaluate` normalizes its own. On a GPU, nothing
    waits for it.
    """
    if pixels.device.type == "cpu":  # decoders keep channels together
        pixels = pixels.movedim(-3, -1).contiguous().movedim(-1, -3)
    values = pixels.float()
    for channel, (scale, shift) in enumerate(zip(SCALE.flat, SHIFT.flat, strict=True)):
        # Python floats need no copy to the device, which would synchronize.
        values[..., channel, :, :].mul_(float(scale)).sub_(float(shift))
    return values
