"""Processes that make batches before they are asked for, in training and in evaluation."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Part = TypeVar("Part")
Made = TypeVar("Made")
AHEAD = 4
"""Batches that a worker prepares before they are asked for."""
_SOCKETS = 75  # characters of a folder in which a socket of Python's has no name above 107


def ahead(make: Callable[[Part], Made], parts: Sequence[Part], workers: int) -> Iterator[Made]:
    """``make`` of each part, in order; here where there are no workers, or one part.

    Workers start at once.

    Raises:
        ValueError, OSError: as ``make`` did, with no foreign trace.
    """
    if not workers or len(parts) < 2:
        return map(make, parts)
    return in_workers(_Items(make, parts), min(workers, len(parts)))


def in_workers(dataset: Dataset[Any], workers: int) -> Iterator[Any]:
    """The items of a dataset in order, made by so many processes, which start at once.

    Raises:
        ValueError, OSError: an item is this error (:func:`or_error`).
    """
    methods = multiprocessing.get_all_start_methods()
    loader = DataLoader(
        dataset,
        batch_size=None,  # an item is a batch
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=torch.cuda.is_available(),
        # Quick, and nothing is copied: a worker reads the columns of the parent's Arrow memory.
        multiprocessing_context="fork" if "fork" in methods else None,
        worker_init_fn=_start,
        # Its own: else it draws from the generator of the model's dropout.
        generator=torch.Generator().manual_seed(0),
    )
    return _drain(iter(loader))


def _drain(items: Any) -> Iterator[Any]:
    """What is made, until no worker is left: they ignore the SIGTERM that torch ends with those
    who have not answered for some seconds, as on a busy machine."""
    workers = items._workers
    try:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        del items  # torch asks them to end
        for worker in workers:
            worker.kill()


def or_error(make: Callable[[Part], Made], part: Part) -> Made | Exception:
    """What is made of a part, or the error, which is raised where it is asked for."""
    try:
        return make(part)
    except (ValueError, OSError) as error:
        return error


class _Items(Dataset[Any]):
    """What is made of each part, or the error."""

    def __init__(self, make: Callable[[Any], Any], parts: Sequence[Any]) -> None:
        self._make, self._parts = make, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, i: int) -> Any:
        return or_error(self._make, self._parts[i])


def _as_it_is(item: Any) -> Any:
    return item


def _start(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a group; the trainer ends us
        signal.signal(number, signal.SIG_IGN)
    if len(tempfile.gettempdir()) > _SOCKETS:  # tensors are handed over by sockets in it
        tempfile.tempdir = "/tmp"
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
