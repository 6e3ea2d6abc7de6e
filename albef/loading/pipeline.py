"""How a training batch is made: its records are read by place, and collated.

A damaged record is counted, held against what training takes, and replaced by a stated rule
(:meth:`albef.loading.sampler.Sampler.spares`).
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from albef.data.image_decoding import ImageError, decode
from albef.data.record import Record
from albef.data.shards import Damaged, ShardError, Shards
from albef.loading.reading import Batch, Collate
from albef.loading.sampler import Sampler

_CONTENT = 1  # keeps the generators of what is in a batch apart from those of order and draws
log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """In which order a split is read, and how much of it may be damaged before training stops."""

    window: int | None = None
    """As in :class:`albef.tasks.task.TrainingConfig`."""
    max_damaged_records: float = 0.0
    """Share, as in :class:`albef.layout.Runtime`."""
    max_damaged_shards: float = 0.0
    """The same of shards."""


class MicroBatch(NamedTuple):
    """What comes out of the pipeline."""

    batch: Batch
    damaged: Sequence[Damaged]


class _Read(NamedTuple):
    """The records of a micro-batch, some in place of others that were damaged."""

    number: int
    places: list[int]
    records: list[Record]
    damaged: list[Damaged]


class Pipeline:
    """What is done to the number of a micro-batch, counted from the start of training."""

    def __init__(self, shards: Shards, collate: Collate, sampler: Sampler, seed: int) -> None:
        self.shards = shards
        self.sampler = sampler
        self.seed = seed
        self._collate = collate

    def make(self, number: int) -> MicroBatch:
        """Read the records of a micro-batch by their places in the tars, and collate them."""
        read = self._read(number)
        try:
            return self._batch(read)
        except ImageError:
            self._replace_undecodable(read)
            return self._batch(read)

    def _batch(self, read: _Read) -> MicroBatch:
        number = divmod(read.number, self.sampler.per_epoch)
        rng = np.random.default_rng([self.seed, _CONTENT, *number])
        return MicroBatch(self._collate(read.records, rng), read.damaged)

    def _read(self, number: int) -> _Read:
        read = _Read(number, self.sampler.chosen(number).tolist(), [], [])
        for position, place in enumerate(read.places):
            try:
                read.records.append(self.shards[place])
            except Damaged as error:
                read.damaged.append(error)
                read.records.append(self._read_spare(read, position, error))
        return read

    def _replace_undecodable(self, read: _Read) -> None:
        for position, record in enumerate(read.records):
            try:
                _decode(record)
            except ImageError as error:
                shard = self.shards.shard_names[read.places[position]].as_py()
                read.damaged.append(
                    Damaged(shard, record.key, str(error), self.shards.files.remedy)
                )
                read.records[position] = self._read_spare(read, position, error, _decode)

    def _read_spare(
        self,
        read: _Read,
        position: int,
        error: Exception,
        check: Callable[[Record], None] = lambda record: None,
    ) -> Record:
        """The record that stands for a damaged one: the first spare that is not."""
        for place in self.sampler.spares(read.number, position):
            with contextlib.suppress(Damaged, ImageError):
                record = self.shards[place]
                check(record)
                read.places[position] = place
                return record
        raise error


def _decode(record: Record) -> None:
    for image in record.images:
        decode(image, record.key)


class DamageCount:
    """The damage that this process has met in a split, held against what is taken; it knows
    nothing of others'.
    """

    def __init__(self, shards: Shards, config: Reading) -> None:
        self._shards = shards
        self._config = config
        self._reported: set[tuple[str, str]] = set()
        self._replaced = 0

    def add(self, damaged: Iterable[Damaged]) -> None:
        """Count; what is new is logged.

        Raises:
            ShardError: it is more than is taken.
        """
        for record in damaged:
            self._replaced += 1
            if (record.shard, record.key) not in self._reported:
                self._reported.add((record.shard, record.key))
                self._check(record)
                log.warning("%s; other records take its place", record.problem)

    def _check(self, damaged: Damaged) -> None:
        kind, total = "records", len(self._shards)
        share = self._config.max_damaged_records
        if not damaged.key:
            kind, total = "shards", len(self._shards.shard_names.unique())
            share = self._config.max_damaged_shards
        count, name = self.counts()[kind], self._shards.name
        if count > share * total:
            raise ShardError(
                f"{damaged.problem}; that makes {count} damaged of the {total} {kind} of {name}, "
                f"split {self._shards.split}, more than runtime.max_damaged_{kind}.{name} "
                f"{share:g} allows: {damaged.remedy}, or allow more"
            )

    def counts(self) -> dict[str, int]:
        """Damaged records and shards, each counted once, and places that others had to take."""
        shards = sum(not key for _, key in self._reported)
        return {
            "records": len(self._reported) - shards,
            "shards": shards,
            "replaced": self._replaced,
        }
