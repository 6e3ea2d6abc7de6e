"""Images from shards, read by offset, from the dataset's folder or its store.

An image is returned only if its bytes have the digest that the index records. Nothing is unpacked,
and no other member is read.
"""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

from albef.data.cache import MissingShardError, ShardCache
from albef.data.store import MANIFEST, Manifest, Store, Stored, read_manifest
from albef.layout import Runtime

_OPEN = 128  # shards that a process keeps open at most


class ShardError(ValueError):
    """Error for a dataset that cannot be read or written; its message is shown to the user."""


class DamagedShardError(ShardError):
    """Error for a shard, or a record in a shard, that cannot be read.

    ``shard`` is the name of the shard. ``key`` is the key of the record, or "" if the shard as a
    whole is meant. ``problem`` describes what is wrong, without the remedy.
    """

    def __init__(self, shard: str, key: str, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.shard, self.key, self.problem, self.remedy = shard, key, problem, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedShardError, (self.shard, self.key, self.problem, self.remedy)


class ShardFiles:
    """Shards of a dataset, opened by each process when it first reads from one.

    ``cache`` is None if the dataset has no store.

    Raises:
        ShardError: the manifest is damaged.
    """

    def __init__(self, folder: Path, cache: ShardCache | None = None) -> None:
        self._folder = folder
        try:
            self._manifest: Manifest | None = read_manifest(folder)
        except ValueError as error:
            raise ShardError(f"{error}; {remedy(folder)}") from None
        own_cache = cache or ShardCache.default or ShardCache.of(Runtime())
        self.cache = own_cache if self._manifest else None
        self._store = Store(self._manifest.store if self._manifest else "")
        self.close()

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        self._files: dict[str, _File] = {}
        self._lost: dict[str, str] = {}
        self._process = os.getpid()

    def size(self, shard: str) -> int:
        """Return the size of a shard of the store in bytes."""
        return self._stored(shard).size

    def image(self, shard: str, offset: int, size: int, digest: str, key: str) -> bytes:
        """Return the image of a record, at an offset in a shard, in bytes, with a SHA-256.

        Raises:
            DamagedShardError: the image is missing or differs from its digest.
            OSError: the store cannot be reached.
        """
        problem, image = self._read(shard, offset, size, digest, key)
        # The local copy may be damaged while the one in the store is not.
        if problem and self.cache:
            self._files.pop(shard, None)
            self.cache.drop(self._stored(shard))
            problem, image = self._read(shard, offset, size, digest, key)
        if problem:
            raise DamagedShardError(shard, key, problem, self.remedy)
        return image

    def _read(self, shard: str, offset: int, size: int, digest: str, key: str) -> tuple[str, bytes]:
        """Return the problem, "" if there is none, and the image."""
        file = self._open(shard)
        if self.cache:
            self.cache.touch(file.number)
        try:
            image = os.pread(file.number, size, offset)
        except OSError as error:
            return f"cannot read {key} in {self._address(shard)} ({error.strerror})", b""
        if len(image) != size:
            return f"{self._address(shard)} ends before {key}", b""
        is_damaged = hashlib.sha256(image).hexdigest() != digest
        return f"{self._address(shard)} is damaged at {key}" if is_damaged else "", image

    def _address(self, shard: str) -> str:
        if self._manifest:
            return self._store.address(self._stored(shard))
        return str(self._folder / "shards" / shard)

    @property
    def remedy(self) -> str:
        """Return the remedy for a damaged or missing shard."""
        if not self._manifest:
            return remedy(self._folder)
        name = self._folder.name
        return f"delete it there if it exists, then run `albef run --force ingest@{name}`"

    def _stored(self, shard: str) -> Stored:
        assert self._manifest is not None
        if shard not in self._manifest.shards:
            path = self._folder / MANIFEST
            raise ShardError(f"{path} does not list shard {shard}: {remedy(self._folder)}")
        return self._manifest.shards[shard]

    def _open(self, shard: str) -> "_File":
        if self._process != os.getpid():
            self.close()  # A forked process opens its own files.
        if file := self._files.get(shard):
            return file
        if shard not in self._lost:
            try:
                file = self._files[shard] = _File(self.descriptor(shard))
                self._close_some()
                return file
            except FileNotFoundError:
                self._lost[shard] = f"{self._address(shard)} is missing"
            except MissingShardError as error:
                self._lost[shard] = str(error)
        raise DamagedShardError(shard, "", self._lost[shard], self.remedy)

    def descriptor(self, shard: str) -> int:
        """Open a shard, fetching it if necessary; the caller closes it.

        Returns:
            The file descriptor.

        Raises:
            MissingShardError, FileNotFoundError: the shard cannot be read.
            OSError: the store cannot be reached.
        """
        if self.cache:
            return self.cache.open(self._store, self._stored(shard))
        path = self._folder / "shards" / shard
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOENT):
                raise
            raise MissingShardError(f"cannot read {path} ({error.strerror})") from None

    def _close_some(self) -> None:
        """Close the first file if too many are open, and files that the cache has removed."""
        for shard, file in list(self._files.items())[:-1]:
            if len(self._files) > _OPEN or (self.cache and not os.fstat(file.number).st_nlink):
                self._files.pop(shard, None)


class _File:
    """Open file that is closed when nobody reads from it any more; threads may share it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


def remedy(folder: Path) -> str:
    """Return the remedy for a damaged folder of a dataset."""
    return f"run `albef run --only ingest@{folder.name}`, or `dvc checkout`, to restore it"
