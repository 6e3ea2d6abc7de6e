"""Worker processes that make batches ahead, in training and in evaluation."""

import atexit
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from albef.io import die_with_parent

Part = TypeVar("Part")
Made = TypeVar("Made")
AHEAD = 4
"""Number of batches that a worker prepares ahead."""
_SHARED = 2**20
"""Bytes from which a tensor is passed in shared memory."""
_SOCKETS = 75  # longest folder in which a Python socket's name fits in 107 characters


def ahead(make: Callable[[Part], Made], parts: Sequence[Part], workers: int) -> Iterator[Made]:
    """Return ``make`` of each part, in order; without workers, or with one part, in this process.

    Workers start at once.

    Raises:
        ValueError, OSError: as raised by ``make``, without the worker's trace.
    """
    if not workers or len(parts) < 2:
        return map(make, parts)
    return in_workers(parts, min(workers, len(parts)), partial(or_error, make))


def in_workers(
    dataset: Any, workers: int, make: Callable[[Any], Any] = lambda item: item
) -> Generator[Any]:
    """Yield ``make`` of a dataset's items, in order, from worker processes, which start at once.

    Raises:
        ValueError, OSError: ``make`` returned this error (:func:`or_error`).
    """
    loader = DataLoader(
        dataset,
        batch_size=None,  # an item is a batch
        collate_fn=make if torch.cuda.is_available() else partial(_copied, make),
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=torch.cuda.is_available(),
        # A fork is fast and copies nothing: a worker reads the parent's Arrow memory.
        multiprocessing_context="fork",
        worker_init_fn=_start,
        # Otherwise torch draws from the generator of the model's dropout.
        generator=torch.Generator().manual_seed(0),
    )
    return _drain(iter(loader))


def _drain(items: Any) -> Generator[Any]:
    """Yield the items, then kill the remaining workers, which ignore torch's SIGTERM."""
    workers = items._workers

    def end() -> None:
        items._shutdown_workers()  # torch asks the workers to end
        for worker in workers:
            worker.kill()

    # If an error's trace keeps this generator open, this ends the workers when Python exits.
    # Registered last, it runs before torch's own function, after which torch ends no workers.
    atexit.register(end)
    try:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield tree_map_only(_Array, lambda it: torch.from_numpy(it.values), item)
    finally:
        end()
        atexit.unregister(end)


@dataclass(frozen=True)
class _Array:
    """Values of a small tensor, which a worker passes as bytes."""

    values: "np.ndarray[Any, Any]"


def _copied(make: Callable[[Any], Any], item: Any) -> Any:
    """Return ``make`` of an item with its small tensors as arrays.

    By default, torch passes each tensor in shared memory. To set that up takes longer than a copy.
    """
    return tree_map_only(
        torch.Tensor, lambda it: _Array(it.numpy()) if it.nbytes < _SHARED else it, make(item)
    )


def or_error(make: Callable[[Part], Made], part: Part) -> Made | Exception:
    """Return ``make`` of a part, or its error, for the consumer to raise."""
    try:
        return make(part)
    except (ValueError, OSError) as error:
        return error


def _start(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the trainer ends its workers
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    if len(tempfile.gettempdir()) > _SOCKETS:  # its sockets transfer tensors
        tempfile.tempdir = "/tmp"
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
