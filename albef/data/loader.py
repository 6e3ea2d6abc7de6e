"""Batches in an order that depends on seed and epoch alone.

Any number of workers, and a start in the middle of an epoch, give the same batches bit by bit:
the order is a permutation from (seed, epoch), and what is random in a batch comes from (seed,
epoch, number of the batch).
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from albef.data.record import Record
from albef.data.shards import Shards

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Record], np.random.Generator], Batch]

_ORDER, _CONTENT = 0, 1  # keeps the generator of an order apart from those of its batches
_AHEAD = 4  # batches that a worker prepares before they are asked for


class Loader:
    """Training batches of a split.

    Args:
        shards: the split.
        collate: records and a generator to a batch; runs in the workers.
        batch_size: B; the last records of an epoch that fill no batch are left out.
        seed: of order and augmentation.
        workers: processes that decode and augment; 0 does it here.

    Raises:
        ValueError: the split has fewer records than a batch.
    """

    def __init__(
        self, shards: Shards, collate: Collate, batch_size: int, seed: int, workers: int
    ) -> None:
        if len(shards) < batch_size:
            raise ValueError(
                f"{shards.folder} has {len(shards)} records in split {shards.split}, fewer than "
                f"a batch of {batch_size}: lower the batch size or make the data set larger"
            )
        self.steps_per_epoch = len(shards) // batch_size
        self._shards = shards
        self._collate = collate
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of global steps ``start_step`` up to ``stop_step``, through the epochs.

        What lies before is skipped without reading it. Workers live as long as the iterator.
        """
        work = _Batches(
            self._shards, self._collate, self._batch_size, self._seed, self.steps_per_epoch
        )
        steps = range(start_step, stop_step)
        if not self._workers or not steps:
            return (work.batch(step) for step in steps)
        return _from_workers(work, steps, self._workers)


def _from_workers(work: "_Batches", steps: range, workers: int) -> Iterator[Batch]:
    methods = multiprocessing.get_all_start_methods()
    batches = DataLoader(
        work,
        sampler=_Steps(steps),
        batch_size=None,  # an item is a batch
        collate_fn=_as_it_is,
        num_workers=min(workers, len(steps)),
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


class _Batches(Dataset[Batch | ValueError]):
    """Batches by global step."""

    def __init__(
        self, shards: Shards, collate: Collate, batch_size: int, seed: int, steps_per_epoch: int
    ) -> None:
        self._shards = shards
        self._collate = collate
        self._batch_size = batch_size
        self._seed = seed
        self._steps_per_epoch = steps_per_epoch
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, step: int) -> Batch | ValueError:
        try:
            return self.batch(step)
        except ValueError as error:  # raised as it is where it is asked for, with no foreign trace
            return error

    def batch(self, step: int) -> Batch:
        """The batch of a global step."""
        epoch, number = divmod(step, self._steps_per_epoch)
        order = self._order_of(epoch)
        chosen = order[number * self._batch_size : (number + 1) * self._batch_size]
        rng = np.random.default_rng([self._seed, _CONTENT, epoch, number])
        return self._collate([self._shards[int(i)] for i in chosen], rng)

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, _ORDER, epoch])
            self._order = epoch, rng.permutation(len(self._shards))
        return self._order[1]


class _Steps(Sampler[int]):
    """The steps, in order."""

    def __init__(self, steps: range) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def _as_it_is(item: Any) -> Any:
    return item


def _start(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a group; the trainer ends us
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
