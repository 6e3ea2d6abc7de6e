"""Shards of stores on this machine: fetched once, verified, and the least recently used go.

All processes of a machine share one folder. Files have the digests of their shards as names. The
kernel's locks keep processes apart, and free what a dead one held.
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

from albef.data.store import Store, Stored, why
from albef.io import file_digest, is_open
from albef.layout import Runtime

log = logging.getLogger(__name__)
_WAITS_S = (1.0, 5.0, 25.0)
"""Between attempts at a store that fails in another way than by not having a shard."""


class LostShard(ValueError):
    """A shard that the store does not have, or has otherwise than it was sent."""


class ShardCache:
    """A folder of shards within a bound, in bytes of all of them; it counts what it ``fetched``.

    The bound may be passed by what is being fetched at the moment, if that alone passes it. A
    shard that goes while a process reads it stays readable there until that closes it.
    """

    default: "ClassVar[ShardCache | None]" = None
    """Where this process keeps shards that it is handed no cache for, as a stage sets it; None is
    the cache of a run without values of its own."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.fetched = 0

    @classmethod
    def of(cls, runtime: Runtime) -> "ShardCache":
        """The cache that the values of a run describe."""
        return cls(runtime.scratch_root / "shards", round(runtime.cache_gb * 2**30))

    def open(self, store: Store, shard: Stored) -> int:
        """A file descriptor of a shard, fetched if it is not there; the caller closes it.

        Raises:
            LostShard: the store does not have it as it was sent.
            OSError: it cannot be fetched for another reason.
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
        """Note that an open shard is read: it goes after those that are not."""
        with contextlib.suppress(PermissionError):  # of another user
            os.utime(file)

    def drop(self, shard: Stored) -> None:
        """Forget a shard whose file is damaged."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: Stored) -> Path:
        return self.folder / f"{shard.digest}.tar"

    def _fetch(self, store: Store, shard: Stored, path: Path) -> int | None:
        """Fetch a shard; None where another process did so meanwhile, or gave up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{shard.digest}.{shard.size}.part"
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, file)
            undo.enter_context(_locked(file))  # waits for whoever fetches it now
            if not is_open(file, part):
                return None
            undo.callback(part.unlink, missing_ok=True)
            if path.exists():
                return None
            self._make_room(shard, part)
            _download(store, shard, part)
            os.fsync(file)
            self._make_room(shard, part, path)  # others fetched meanwhile
            undo.pop_all()
        fcntl.flock(file, fcntl.LOCK_UN)
        self.fetched += 1
        return file

    def _make_room(self, shard: Stored, part: Path, done: Path | None = None) -> None:
        """Remove the least recently used until there is room for a shard.

        Its ``part`` gets its name when it is ``done``, while no other looks what is there.
        """
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, folder)
            undo.enter_context(_locked(folder))
            if done is not None:
                part.rename(done)
            by_age: list[tuple[int, int, Path]] = []
            total = shard.size
            for path in self.folder.iterdir():
                if path in (part, done):
                    continue
                if path.suffix == ".part":
                    digest, part_size, _ = path.name.split(".")
                    # Who waited for a shard that is there by now gives it up.
                    if not _remove_abandoned(path) and not (self.folder / f"{digest}.tar").exists():
                        total += int(part_size)
                elif path.suffix == ".tar":
                    with contextlib.suppress(FileNotFoundError):
                        stat = path.stat()
                        by_age.append((stat.st_mtime_ns, stat.st_size, path))
                        total += stat.st_size
            for _, size, path in sorted(by_age):
                if total <= self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= size


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a fork may have the file too


def _download(store: Store, shard: Stored, part: Path) -> None:
    """Fetch a shard, once more where it comes otherwise than it was sent."""
    address = store.address(shard)
    for is_last_try in (False, True):
        _get(store, shard, part)
        digest = file_digest(part)
        if digest == shard.digest:
            return
        if not is_last_try:
            log.warning("%s came with the SHA-256 %s; it is fetched again", address, digest)
    raise LostShard(
        f"{address} is not what was sent: it has {part.stat().st_size} bytes with the SHA-256 "
        f"{digest}, not {shard.size} with that of its name"
    )


def _get(store: Store, shard: Stored, part: Path) -> None:
    """Fetch, as often as it takes within reason."""
    address = store.address(shard)
    for wait in (*_WAITS_S, None):
        try:
            store.get(shard, part)
            return
        except FileNotFoundError:
            raise LostShard(f"{address} is missing") from None
        except Exception as error:  # of each kind of store another
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            if wait is None or full or isinstance(error, PermissionError):
                raise OSError(
                    f"{address} cannot be fetched to {part.parent} ({why(error)}): mend that and "
                    "run it again; it goes on where it was"
                ) from error
            log.warning("%s cannot be fetched (%s); once more in %g s", address, error, wait)
            time.sleep(wait)


def _remove_abandoned(part: Path) -> bool:
    """Remove what a dead process left; whether it did."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
        return True
    return not part.exists()
