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

from albef.config import read_yaml
from albef.data.store import Store, Stored
from albef.io import file_digest
from albef.layout import PARAMS, runtime

log = logging.getLogger(__name__)
_WAITS_S = (1.0, 5.0, 25.0)
"""Between attempts at a store that fails in another way than by not having a shard."""


class LostShard(ValueError):
    """A shard that the store does not have, or has otherwise than it was sent."""


def shared() -> "ShardCache":
    """The cache that ``runtime`` in params.yaml describes.

    Raises:
        ParamsError: there is no such file, or a value in it is wrong.
    """
    values = runtime(read_yaml(PARAMS).get("runtime"))
    return ShardCache(values.scratch_root / "shards", round(values.cache_gb * 2**30))


class ShardCache:
    """A folder of shards within a bound.

    The bound may be passed by what is being fetched at the moment, if that alone passes it. A
    shard that goes while a process reads it stays readable there until that closes it.

    Args:
        folder: where they are kept.
        limit: bytes of all of them.

    Attributes:
        folder, limit: as given.
        fetched: shards that this process has fetched.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.fetched = 0

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
                self.use(file)
                return file
            fetched = self._fetch(store, shard, path)
            if fetched is not None:
                return fetched

    @staticmethod
    def use(file: int) -> None:
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
        done = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for whoever fetches it now
            if not _is(file, part):
                return None
            if path.exists():
                part.unlink()
                return None
            try:
                self._make_room(shard)
                self._download(store, shard, part)
                os.fsync(file)
                part.rename(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            self.fetched += 1
            done = True
            return file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a fork may have the file too
            if not done:
                os.close(file)

    def _make_room(self, shard: Stored) -> None:
        """Remove the least recently used until there is room for one that is to be fetched."""
        with self._alone():
            used: list[tuple[int, int, Path]] = []
            total = shard.size
            for path in self.folder.iterdir():
                if path.suffix == ".part":
                    own = path.name.startswith(shard.digest)
                    total += 0 if own or _forgotten(path) else int(path.name.split(".")[1])
                elif path.suffix == ".tar":
                    with contextlib.suppress(FileNotFoundError):
                        known = path.stat()
                        used.append((known.st_mtime_ns, known.st_size, path))
                        total += known.st_size
            for _, size, path in sorted(used):
                if total <= self.limit:
                    break
                path.unlink(missing_ok=True)
                total -= size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Of all processes one at a time."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(folder, fcntl.LOCK_UN)
            os.close(folder)

    def _download(self, store: Store, shard: Stored, part: Path) -> None:
        address = store.address(shard)
        for last in (False, True):
            _got(store, shard, part)
            found = file_digest(part)
            if found == shard.digest:
                return
            if not last:
                log.warning("%s came with the SHA-256 %s; it is fetched again", address, found)
        raise LostShard(
            f"{address} is not what was sent: it has {part.stat().st_size} bytes with the SHA-256 "
            f"{found}, not {shard.size} with that of its name"
        )


def _got(store: Store, shard: Stored, part: Path) -> None:
    """Fetch, as often as it takes within reason."""
    address = store.address(shard)
    for wait in (*_WAITS_S, None):
        try:
            store.get(shard, part)
            return
        except FileNotFoundError:
            raise LostShard(f"{address} is missing") from None
        except Exception as error:  # of each kind of store another
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            if wait is None or full:
                raise OSError(
                    f"{address} cannot be fetched to {part.parent} ({error}): mend that and run it "
                    "again; it goes on where it was"
                ) from error
            log.warning("%s cannot be fetched (%s); once more in %g s", address, error, wait)
            time.sleep(wait)


def _is(file: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _forgotten(part: Path) -> bool:
    """Remove what a dead process left; whether it did."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
        return True
    return not part.exists()
