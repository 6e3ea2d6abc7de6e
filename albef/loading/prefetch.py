"""Shards of a store, fetched before training comes to them."""

import logging
import os
import threading
from collections.abc import Iterable

from albef.data.cache import LostShard
from albef.data.shard_files import ShardFiles

log = logging.getLogger(__name__)


class Prefetcher:
    """Fetches into the cache, in a thread, what the next micro-batches are read from.

    It spares the readers the wait and no more: what cannot be fetched they meet, and tell,
    themselves. ``names`` are of the shards of each micro-batch, in order, asked for in the thread;
    ``distance`` is how many micro-batches it may be ahead.
    """

    def __init__(self, files: ShardFiles, names: Iterable[Iterable[str]], distance: int) -> None:
        self._files = files
        self._names = names
        self._allowed = threading.Semaphore(distance)
        self._stopped = False
        threading.Thread(target=self._run, daemon=True, name="prefetch").start()

    def advance(self) -> None:
        """Training has got a micro-batch."""
        self._allowed.release()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        self._allowed.release()

    def _run(self) -> None:
        lost: set[str] = set()
        for names in self._names:
            self._allowed.acquire()
            for name in names:
                if self._stopped:
                    return
                if name not in lost:
                    try:
                        os.close(self._files.descriptor(name))
                    except (LostShard, OSError, ValueError) as error:
                        log.debug("%s", error)
                        lost.add(name)
