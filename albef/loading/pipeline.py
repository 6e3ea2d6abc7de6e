"""The stages of the pipeline that makes training batches: the tar stage, and collating.

The tar stage reads the records of a micro-batch by place, and takes nothing from a tar but
pictures that are where the index says (:mod:`albef.data.shard_files`).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from albef.data.image_decoding import ImageError, decode
from albef.data.record import Record
from albef.data.shards import Damaged, Shards
from albef.loading.damage import Met
from albef.loading.sampler import Order

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Record], np.random.Generator], Batch]

CONTENT = 1
"""Keeps the generators of what is in a batch apart from those of order and draws."""


class Micro(NamedTuple):
    """What comes out of the pipeline."""

    batch: Batch
    met: Sequence[Met]


class _Read(NamedTuple):
    """The records of a micro-batch, some in place of others that were damaged."""

    number: int
    places: list[int]
    records: list[Record]
    met: list[Met]


class Stages:
    """What the pipeline does to the number of a micro-batch, counted from the start of training.

    An error is handed on as it is, to be raised where it is asked for, with no foreign trace.
    """

    def __init__(self, shards: Shards, collate: Collate, order: Order, seed: int) -> None:
        self.shards = shards
        self.order = order
        self.seed = seed
        self._collate = collate

    def read(self, numbers: Iterable[int]) -> Iterator[_Read | Exception]:
        """Numbers to records, by their places in the tars."""
        for number in numbers:
            try:
                yield self._read(number)
            except (ValueError, OSError) as error:
                yield error

    def collate(self, read: _Read | Exception) -> Micro | Exception:
        """Records to a batch."""
        if isinstance(read, Exception):
            return read
        try:
            try:
                return self._batch(read)
            except ImageError:
                return self._batch(self._decodable(read))
        except (ValueError, OSError) as error:
            return error

    def _batch(self, read: _Read) -> Micro:
        number = divmod(read.number, self.order.per_epoch)
        rng = np.random.default_rng([self.seed, CONTENT, *number])
        return Micro(self._collate(read.records, rng), read.met)

    def _read(self, number: int) -> _Read:
        read = _Read(number, [], [], [])
        for position, place in enumerate(self.order.chosen(number).tolist()):
            read.places.append(place)
            try:
                read.records.append(self.shards[place])
            except Damaged as error:
                read.met.append(Met(error.shard, error.key, error.what))
                read.records.append(self._spare(read, position, error))
        return read

    def _decodable(self, read: _Read) -> _Read:
        """The same, with others for the records that cannot be decoded."""
        for position, record in enumerate(read.records):
            try:
                _decode(record)
            except ImageError as error:
                shard = self.shards.shard_names[read.places[position]].as_py()
                read.met.append(Met(shard, record.key, str(error)))
                read.records[position] = self._spare(read, position, error, _decode)
        return read

    def _spare(
        self,
        read: _Read,
        position: int,
        error: Exception,
        check: Callable[[Record], None] = lambda record: None,
    ) -> Record:
        """The record that stands for a damaged one: the first spare that is not."""
        for place in self.order.spares(read.number, position):
            with contextlib.suppress(Damaged, ImageError):
                record = self.shards[place]
                check(record)
                read.places[position] = place
                return record
        raise error


def _decode(record: Record) -> None:
    for image in record.images:
        decode(image, record.key)
