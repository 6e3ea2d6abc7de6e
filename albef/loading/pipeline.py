"""A pipeline that makes a training batch: it reads the records by index and collates them.

Damaged records are counted, and replaced by :meth:`albef.loading.sampler.Sampler.spares`.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from albef.data.image_decoding import ImageError, decode
from albef.data.record import Record
from albef.data.shards import DamagedShardError, ShardError, Shards
from albef.loading.reading import Batch, Collate
from albef.loading.sampler import Sampler

_CONTENT = 1  # separates the generator of contents from those of order and draws
log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """The order in which a split is read, and the damage at which training stops."""

    window: int | None = None
    """Shuffling window in shards, as in :class:`albef.tasks.task.TrainingConfig`."""
    max_damaged_records: float = 0.0
    """Maximum share of damaged records, as in :class:`albef.layout.Runtime`."""
    max_damaged_shards: float = 0.0
    """Maximum share of damaged shards."""


class MicroBatch(NamedTuple):
    """Output of the pipeline."""

    batch: Batch
    damaged: Sequence[DamagedShardError]


class Pipeline:
    """The stage that maps the number of a micro-batch, from the start of training, to the batch."""

    def __init__(self, shards: Shards, collate: Collate, sampler: Sampler, seed: int) -> None:
        self.shards, self.sampler, self.seed, self._collate = shards, sampler, seed, collate

    def make(self, number: int) -> MicroBatch:
        """Read the records of a micro-batch by their positions in the tars, and collate them."""
        try:
            return self._batch(number, check=False)
        except ImageError:  # decode each record to find the damaged one
            return self._batch(number, check=True)

    def _batch(self, number: int, *, check: bool) -> MicroBatch:
        records: list[Record] = []
        damaged: list[DamagedShardError] = []
        for position, index in enumerate(self.sampler.chosen(number).tolist()):
            try:
                records.append(self._read(index, check))
            except DamagedShardError as error:
                damaged.append(error)
                spare = self._spare(number, position, check)
                if spare is None:
                    raise
                records.append(spare)
        rng = np.random.default_rng([self.seed, _CONTENT, *divmod(number, self.sampler.per_epoch)])
        return MicroBatch(self._collate(records, rng), damaged)

    def _read(self, index: int, check: bool) -> Record:
        record = self.shards[index]
        try:
            for image in record.images if check else ():
                decode(image, record.key)
        except ImageError as error:
            shard, remedy = self.shards.shard_names[index].as_py(), self.shards.files.remedy
            raise DamagedShardError(shard, record.key, str(error), remedy) from None
        return record

    def _spare(self, number: int, position: int, check: bool) -> Record | None:
        """Return the record that replaces a damaged one: the first spare that is not damaged."""
        for index in self.sampler.spares(number, position):
            with contextlib.suppress(DamagedShardError):
                return self._read(index, check)
        return None


class DamageCount:
    """The damage that this process, and no other, has found in a split, and its limits."""

    def __init__(self, shards: Shards, config: Reading) -> None:
        self._shards, self._config = shards, config
        self._reported: set[tuple[str, str]] = set()
        self._replaced = 0

    def add(self, damaged: Iterable[DamagedShardError]) -> None:
        """Count damaged records; log each new one.

        Raises:
            ShardError: the damage exceeds the limits.
        """
        for record in damaged:
            self._replaced += 1
            if (record.shard, record.key) not in self._reported:
                self._reported.add((record.shard, record.key))
                self._check(record)
                log.warning("%s; other records replace it", record.problem)

    def _check(self, damaged: DamagedShardError) -> None:
        kind, total = "records", len(self._shards)
        share = self._config.max_damaged_records
        if not damaged.key:
            kind, total = "shards", len(self._shards.shard_names.unique())
            share = self._config.max_damaged_shards
        count, name = self.counts()[kind], self._shards.name
        if count > share * total:
            raise ShardError(
                f"{damaged.problem}; {count} of the {total} {kind} of {name}, split "
                f"{self._shards.split}, are damaged: {damaged.remedy}, or raise "
                f"runtime.max_damaged_{kind}.{name} ({share:g})"
            )

    def counts(self) -> dict[str, int]:
        """Count damaged records and shards, each once, and replacements."""
        shards = sum(not key for _, key in self._reported)
        return {
            "records": len(self._reported) - shards,
            "shards": shards,
            "replaced": self._replaced,
        }
