"""Training batches in an order that depends only on seed and epoch.

Any number of processes and workers, and any start in the middle of an epoch, give the same
micro-batches bit by bit. The order is a permutation from (seed, epoch). Random draws of a
micro-batch use (seed, epoch, its number). A webdataset pipeline splits these numbers among the
workers, and :class:`Pipeline` makes the batches.
"""

import copy
import functools
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from albef.data.shards import Shards
from albef.loading.pipeline import DamageCount, Pipeline, Reading
from albef.loading.prefetch import Prefetcher
from albef.loading.reading import Batch, Collate
from albef.loading.sampler import Mixture, Pool, Sampler
from albef.loading.workers import in_workers, or_error

WHOLE_SPLIT = Reading()
"""Default reading: the whole split is shuffled, and the first damaged record stops the training."""
AS_DRAWN = Pool()
"""Default pool: batches keep the random order."""
_DRAWS = 2  # separates random generators; order has 0, content 1


class Loader:
    """Training batches of a split, each as the micro-batches of this process.

    Args:
        shards: shards of the split.
        collate: function from records and a generator to a micro-batch; runs in the workers.
        batch_size: samples of a step, over all processes. The last records of an epoch are dropped
            if they do not fill a batch.
        micro_batch_size: B, samples of a micro-batch; divides ``batch_size``.
        seed: seed of order, augmentation and draws.
        workers: number of processes that decode and augment; 0 uses this process.
        share: rank of this process and number of processes; each has the same number of
            micro-batches in every step.
        pool: batches whose records are sorted by caption length or source and cut into batches
            again, which are then shuffled.
        weights: passes over each source in an epoch, by name; None is one pass over all records.
        reading: shuffling window in shards, and limits of damage.

    Attributes:
        steps_per_epoch: steps of a pass over the split.
        damage: damage that this process has found.

    Raises:
        ValueError: the split is smaller than a batch, or the processes cannot share it. A weight
            names an unknown source, or the cache of a store does not hold a window.
    """

    def __init__(
        self,
        shards: Shards,
        collate: Collate,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        workers: int,
        share: tuple[int, int] = (0, 1),
        pool: Pool = AS_DRAWN,
        weights: Mapping[str, float] | None = None,
        reading: Reading = WHOLE_SPLIT,
    ) -> None:
        mixture = Mixture(shards.sources, weights, seed) if weights else None
        records = len(shards) if mixture is None else len(mixture)
        if records < batch_size:
            raise ValueError(
                f"{shards.folder}, split {shards.split}, has {records} records, fewer than a batch "
                f"of {batch_size}; lower global_batch_size or add records"
            )
        self.steps_per_epoch = records // batch_size
        self._micros = batch_size // micro_batch_size
        self._rank, processes = share
        if self._micros % processes:
            raise ValueError(
                f"{processes} processes cannot share {self._micros} micro-batches equally "
                f"(global_batch_size {batch_size} / micro_batch_size {micro_batch_size}); change "
                "micro_batch_size or runtime.processes"
            )
        self._per_rank = self._micros // processes
        shards.check_cache_fits(reading.window)
        self._sampler = Sampler(
            shards,
            micro_batch_size,
            self._micros * self.steps_per_epoch,
            seed,
            pool._replace(micros=self._micros),
            mixture,
            reading.window,
        )
        self._pipeline = Pipeline(shards, collate, self._sampler, seed)
        self._workers = workers
        self.damage = DamageCount(shards, reading)

    def numbers(self, step: int) -> range:
        """Return the numbers of this process' micro-batches in a step, counted from the start."""
        first = step * self._micros + self._rank * self._per_rank
        return range(first, first + self._per_rank)

    def draw_seed(self, number: int) -> int:
        """Return the seed of the model's draws for a micro-batch: hard negatives and dropout."""
        in_epoch = divmod(number, self._sampler.per_epoch)
        sequence = np.random.SeedSequence([self._pipeline.seed, _DRAWS, *in_epoch])
        return int(sequence.generate_state(1, np.uint64)[0])

    def keys(self, step: int) -> list[str]:
        """Return the keys of a step's records, over all processes, including damaged ones."""
        numbers = range(step * self._micros, (step + 1) * self._micros)
        keys = self._pipeline.shards.keys
        return [keys[int(i)].as_py() for n in numbers for i in self._sampler.chosen(n)]

    def batches(self, start_step: int, stop_step: int) -> Iterator[list[Batch]]:
        """Iterate over this process' micro-batches of each step.

        Steps run from ``start_step`` to before ``stop_step``. Earlier steps are skipped without
        reading them. Workers live as long as the iterator.

        Raises:
            ShardError: the damage exceeds the limits of ``reading``.
            ImageError: no record can be decoded.
            OSError: a store cannot be reached.
        """
        micros = self._micro_batches(range(start_step, stop_step))
        return iter(lambda: list(itertools.islice(micros, self._per_rank)), [])

    def _micro_batches(self, steps: range) -> Iterator[Batch]:
        import webdataset as wds  # a slow import that only training needs

        def numbers() -> Iterator[int]:
            return itertools.chain.from_iterable(map(self.numbers, steps))

        workers = min(self._workers, len(steps) * self._per_rank)
        make = self._pipeline.make
        pipeline = wds.DataPipeline(
            numbers,
            wds.split_by_worker,  # in turns, as torch asks its workers: this keeps the order
            wds.map(functools.partial(or_error, make) if workers else make),
        )
        made = in_workers(pipeline, workers) if workers else iter(pipeline)
        prefetcher = self._prefetcher(numbers())  # start after the workers: a fork has no threads
        try:
            for micro in made:
                self.damage.add(micro.damaged)
                if prefetcher:
                    prefetcher.advance()
                yield micro.batch
        finally:
            made.close()  # The workers end now and not when the garbage is collected.
            if prefetcher:
                prefetcher.stop()

    def _prefetcher(self, numbers: Iterator[int]) -> Prefetcher | None:
        """Return the prefetcher of the next window's shards, or None without a store."""
        files = self._pipeline.shards.files
        sampler = copy.copy(self._sampler)  # its thread may be in another epoch
        if files.cache is None:
            return None
        distance = max(1, sampler.per_window * self._per_rank // self._micros)
        return Prefetcher(files, map(sampler.shards_of, numbers), distance)
