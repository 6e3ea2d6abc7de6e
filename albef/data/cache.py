"""Local cache of a store's shards: fetched once, verified, and evicted by least recent use.

All processes of a machine share one folder. Each file has the digest of its shard as its name.
Kernel locks coordinate the processes, and the kernel releases the locks of a dead process.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from albef.data.store import Store, Stored, explain
from albef.io import file_digest, is_open
from albef.layout import Runtime

log = logging.getLogger(__name__)
_WAITS_S = (1.0, 5.0, 25.0)
"""Seconds between attempts if a store fails for another reason than a missing shard."""


class MissingShardError(ValueError):
    """Error for a shard that the store lacks, or whose content differs from what was sent."""


class ShardCache:
    """Folder of shards with a limit on their total size in bytes.

    ``fetched`` counts the shards that this object has fetched. The total may exceed the limit by
    the shards that are being fetched. A shard that is evicted while a process reads it stays
    readable for that process until it closes the shard.
    """

    default: "ClassVar[ShardCache | None]" = None
    """Cache for shards if the caller passes none; a stage sets it. None is the cache of a run with
    default values."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.fetched = 0

    @classmethod
    def of(cls, runtime: Runtime) -> "ShardCache":
        """Return the cache that the values of a run describe."""
        return cls(runtime.scratch_root / "shards", round(runtime.cache_gb * 2**30))

    def open(self, store: Store, shard: Stored) -> int:
        """Return the descriptor of an open shard, fetched if it is missing; the caller closes it.

        Raises:
            MissingShardError: the store does not have the shard as it was sent.
            OSError: the shard cannot be fetched for another reason.
        """
        path = self._path(shard)
        while True:
            with contextlib.suppress(FileNotFoundError):
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self.touch(file)
                return file
            if (fetched := self._fetch(store, shard, path)) is not None:
                return fetched

    @staticmethod
    def touch(file: int) -> None:
        """Mark an open shard as used now; shards that are not in use are evicted before it."""
        with contextlib.suppress(PermissionError):  # The file may belong to another user.
            os.utime(file)

    def drop(self, shard: Stored) -> None:
        """Remove a shard whose file is damaged from the cache."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: Stored) -> Path:
        return self.folder / f"{shard.digest}.tar"

    def _fetch(self, store: Store, shard: Stored, path: Path) -> int | None:
        """Fetch a shard; return None if another process fetched it meanwhile, or gave up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, file)
            undo.enter_context(_locked(file))  # This waits while another process fetches the shard.
            if not is_open(file, part):
                return None
            undo.callback(part.unlink, missing_ok=True)
            if path.exists():
                return None
            _download(store, shard, part)
            os.fsync(file)
            part.rename(path)
            undo.pop_all()
        fcntl.flock(file, fcntl.LOCK_UN)
        self.fetched += 1
        self._evict(path)
        return file

    def _evict(self, fetched: Path) -> None:
        """Remove the least recently used shards but this one, and the parts of dead processes.

        The last process that fetches a shard sees all of them, so that the limit holds in the end.
        """
        by_age: list[tuple[int, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                if path.suffix == ".part":
                    _remove_abandoned(path)
                else:
                    stat = path.stat()
                    by_age.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in by_age)
        for _, size, path in sorted(by_age):
            if total > self.limit and path != fetched:
                path.unlink(missing_ok=True)
                total -= size


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        # A forked process may also hold the file, and with it the lock.
        fcntl.flock(file, fcntl.LOCK_UN)


def _download(store: Store, shard: Stored, part: Path) -> None:
    """Fetch a shard; fetch it once more if its digest is wrong."""
    address = store.address(shard)
    for is_last_try in (False, True):
        _get(store, shard, part)
        digest = file_digest(part)
        if digest == shard.digest:
            return
        if not is_last_try:
            log.warning("%s has the wrong SHA-256 %s; fetching it again", address, digest)
    raise MissingShardError(
        f"{address} is damaged: it has {part.stat().st_size} bytes with SHA-256 {digest}; "
        f"expected {shard.size} bytes with SHA-256 {shard.digest}"
    )


def _get(store: Store, shard: Stored, part: Path) -> None:
    """Fetch a shard with a limited number of attempts."""
    address = store.address(shard)
    for wait in (*_WAITS_S, None):
        try:
            store.get(shard, part)
            return
        except FileNotFoundError:
            raise MissingShardError(f"{address} is missing") from None
        except Exception as error:  # Each kind of store raises its own exceptions.
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if wait is None or full or isinstance(error, PermissionError):
                raise OSError(
                    f"cannot fetch {address} to {part.parent}: {explain(error)}. Fix it, then "
                    "run the command again; it resumes"
                ) from error
            log.warning("cannot fetch %s: %s; trying again in %g s", address, error, wait)
            time.sleep(wait)


def _remove_abandoned(part: Path) -> None:
    """Remove the part file of a dead process; a living one locks it (BlockingIOError)."""
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_open(file.fileno(), part):
            part.unlink()
