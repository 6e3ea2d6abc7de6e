"""Prefetching of shards from a store before training needs them."""

import logging
import os
import threading
from collections.abc import Iterable

from albef.data.cache import MissingShardError
from albef.data.shard_files import ShardFiles

log = logging.getLogger(__name__)


class Prefetcher:
    """Thread that fetches the shards of the next micro-batches into the cache.

    It only saves waiting time: errors are left to the readers, who meet them too.

    Args:
        files: shards of the split, with the cache.
        names: names of the shards of each micro-batch, in order; evaluated in the thread.
        distance: maximum number of micro-batches that the thread may be ahead.
    """

    def __init__(self, files: ShardFiles, names: Iterable[Iterable[str]], distance: int) -> None:
        self._files, self._names = files, names
        self._allowed = threading.Semaphore(distance)
        self._stopped = False
        threading.Thread(target=self._run, daemon=True, name="prefetch").start()

    def advance(self) -> None:
        """Record that training has received a micro-batch."""
        self._allowed.release()

    def stop(self) -> None:
        """Stop before the next fetch."""
        self._stopped = True
        self._allowed.release()

    def _run(self) -> None:
        failed: set[str] = set()
        for names in self._names:
            self._allowed.acquire()
            for name in names:
                if self._stopped:
                    return
                if name not in failed:
                    try:
                        os.close(self._files.descriptor(name))
                    except (MissingShardError, OSError, ValueError) as error:
                        log.debug("%s", error)
                        failed.add(name)
