"""Batches in an order that depends on seed and epoch alone.

Any number of processes and workers, and a start in the middle of an epoch, give the same
micro-batches bit by bit: the order is a permutation from (seed, epoch), and what is random in a
micro-batch comes from (seed, epoch, its number).
"""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from albef.data.mixing import Mixture
from albef.data.record import Record
from albef.data.shards import Shards

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Record], np.random.Generator], Batch]

_ORDER, _CONTENT, _DRAWS = 0, 1, 2  # keeps the generators of different things apart
_AHEAD = 4  # batches that a worker prepares before they are asked for


class Loader:
    """Training batches of a split, each as the micro-batches of this process.

    Args:
        shards: the split.
        collate: records and a generator to a micro-batch; runs in the workers.
        batch_size: samples of a step, over all processes; the last records of an epoch that fill no
            batch are left out.
        micro_batch_size: B, samples of a micro-batch; divides ``batch_size``.
        seed: of order, augmentation and draws.
        workers: processes that decode and augment; 0 does it here.
        share: rank of this process and number of processes; each has as many micro-batches of
            every step.
        pooled: batches whose records are sorted by the words of their captions before they are cut
            into micro-batches, which are then shuffled; 0 leaves the records in random order.
        weights: passes over each source in an epoch, by name; None is one over all records.

    Attributes:
        steps_per_epoch: steps of a pass over the split.

    Raises:
        ValueError: the split has fewer records than a batch, the processes cannot share it, or a
            weight is of no source.
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
        pooled: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        mixture = Mixture(shards.sources, weights, seed) if weights else None
        shown = len(shards) if mixture is None else len(mixture)
        if shown < batch_size:
            raise ValueError(
                f"{shards.folder} has {shown} records in split {shards.split}, fewer than "
                f"a batch of {batch_size}: lower the batch size or make the data set larger"
            )
        self.steps_per_epoch = shown // batch_size
        self._micros = batch_size // micro_batch_size
        self._rank, processes = share
        if self._micros % processes:
            raise ValueError(
                f"global_batch_size {batch_size} is {self._micros} micro-batches of "
                f"{micro_batch_size}, which {processes} processes cannot share equally: change "
                "micro_batch_size or runtime.processes"
            )
        self._own = self._micros // processes
        per_epoch = self._micros * self.steps_per_epoch
        pool = pooled * self._micros
        self._work = _MicroBatches(
            shards, collate, micro_batch_size, seed, per_epoch, pool, mixture
        )
        self._workers = workers

    def numbers(self, step: int) -> range:
        """The micro-batches of this process in a step, counted from the start of the training."""
        first = step * self._micros + self._rank * self._own
        return range(first, first + self._own)

    def draw_seed(self, number: int) -> int:
        """Seed of what the model draws for a micro-batch, as hard negatives and dropout."""
        work = self._work
        sequence = np.random.SeedSequence([work.seed, _DRAWS, *divmod(number, work.per_epoch)])
        return int(sequence.generate_state(1, np.uint64)[0])

    def keys(self, step: int) -> list[str]:
        """The keys of a step's records, over all processes."""
        numbers = range(step * self._micros, (step + 1) * self._micros)
        shards = self._work.shards
        return [shards.keys[int(i)].as_py() for n in numbers for i in self._work.chosen(n)]

    def batches(self, start_step: int, stop_step: int) -> Iterator[list[Batch]]:
        """This process' micro-batches of each step from ``start_step`` to before ``stop_step``.

        What lies before is skipped without reading it. Workers live as long as the iterator.
        """
        numbers = [n for step in range(start_step, stop_step) for n in self.numbers(step)]
        if self._workers and numbers:
            micros = _from_workers(self._work, numbers, self._workers)
        else:
            micros = (self._work.batch(number) for number in numbers)
        return iter(lambda: list(itertools.islice(micros, self._own)), [])


def _from_workers(work: "_MicroBatches", numbers: Sequence[int], workers: int) -> Iterator[Batch]:
    methods = multiprocessing.get_all_start_methods()
    batches = DataLoader(
        work,
        sampler=_InOrder(numbers),
        batch_size=None,  # an item is a batch
        collate_fn=_as_it_is,
        num_workers=min(workers, len(numbers)),
        prefetch_factor=_AHEAD,
        pin_memory=torch.cuda.is_available(),
        # Quick, and nothing is copied: a worker reads the columns of the parent's Arrow memory.
        multiprocessing_context="fork" if "fork" in methods else None,
        worker_init_fn=_start,
        # Its own: else it draws from the generator of the model's dropout.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


class _MicroBatches(Dataset[Batch | ValueError]):
    """Micro-batches by number, counted from the start of the training."""

    def __init__(
        self,
        shards: Shards,
        collate: Collate,
        size: int,
        seed: int,
        per_epoch: int,
        pool: int,
        mixture: Mixture | None,
    ) -> None:
        self.shards = shards
        self.seed = seed
        self.per_epoch = per_epoch
        self._collate = collate
        self._size = size
        self._pool = pool
        self._mixture = mixture
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._lengths: NDArray[np.int64] | None = None

    def __getitem__(self, number: int) -> Batch | ValueError:
        try:
            return self.batch(number)
        except ValueError as error:  # raised as it is where it is asked for, with no foreign trace
            return error

    def batch(self, number: int) -> Batch:
        """A micro-batch."""
        rng = np.random.default_rng([self.seed, _CONTENT, *divmod(number, self.per_epoch)])
        return self._collate([self.shards[int(i)] for i in self.chosen(number)], rng)

    def chosen(self, number: int) -> NDArray[np.int64]:
        """The places of its records."""
        epoch, inside = divmod(number, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            shown = len(self.shards) if self._mixture is None else self._mixture.epoch(epoch)
            order = rng.permutation(shown)[: self.per_epoch * self._size]
            self._order = epoch, self._by_length(order, rng) if self._pool else order
        return self._order[1][inside * self._size : (inside + 1) * self._size]

    def _by_length(self, order: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """The records, sorted by length within each pool of micro-batches, and those shuffled."""
        words = self._words()
        parts = []
        for start in range(0, len(order), self._pool * self._size):
            pool = order[start : start + self._pool * self._size]
            micros = pool[np.argsort(words[pool], kind="stable")].reshape(-1, self._size)
            parts.append(micros[rng.permutation(len(micros))])
        return np.concatenate(parts).ravel()

    def _words(self) -> NDArray[np.int64]:
        """The most words that a caption of each record has."""
        if self._lengths is None:
            captions = self.shards.captions
            blanks = pc.count_substring(pc.list_flatten(captions), " ").to_numpy()
            starts = np.concatenate([[0], np.cumsum(pc.list_value_length(captions).to_numpy())])
            self._lengths = np.maximum.reduceat(np.append(blanks, 0), starts[:-1])
        return self._lengths


class _InOrder(Sampler[int]):
    """The numbers, in order."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def _as_it_is(item: Any) -> Any:
    return item


def _start(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a group; the trainer ends us
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
