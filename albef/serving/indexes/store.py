"""The indexes of a server, by name."""

import asyncio
import hashlib
import logging
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from albef.serving.errors import ApiError
from albef.serving.indexes.index import About, Index

T = TypeVar("T")
_THREADS = 2  # Threads that read and write the indexes.

log = logging.getLogger("albef")
GALLERY = "gallery"  # Name of the index that follows the gallery folder


class Store:
    """The indexes of a server, in a ``folder`` that processes can share.

    If it is None, indexes are in memory and end with the server. Clients cannot change the index
    ``read_only``.

    Raises:
        ValueError: the folder cannot be created or written to.
    """

    def __init__(self, folder: Path | None, read_only: str = "") -> None:
        self.folder, self.read_only = folder, read_only
        self._lock = threading.RLock()
        # Indexes by file name, each with the file's inode.
        self._open: dict[str, tuple[int, Index]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "index")
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                reason = f"cannot write to the folder of indexes ({error.strerror})"
                raise ValueError(f"--indexes {folder}: {reason}; use another one") from None

    def get(self, name: str) -> Index | None:
        """Return the index of a name, which can be any string; None if it does not exist."""
        return self._index_at(_file_name(name))

    def all(self) -> list[Index]:
        """Return every index, sorted by name."""
        files = [path.name for path in self.folder.glob("*.sqlite")] if self.folder else self._open
        # An index without images is false, so None is compared.
        indexes = [index for index in map(self._index_at, [*files]) if index is not None]
        return sorted(indexes, key=lambda index: index.about.name)

    def create(self, about: About) -> Index:
        """Create an empty index; an existing one is not changed."""
        file = _file_name(about.name)
        with self._lock:
            if self.folder is not None:
                Index(self.folder / file, about).close()
            elif file not in self._open:
                self._open[file] = 0, Index(None, about)
            index = self._index_at(file)
        assert index is not None
        return index

    def delete(self, name: str) -> None:
        """Delete an index and all its files."""
        file = _file_name(name)
        with self._lock:
            if file in self._open:
                self._open.pop(file)[1].close()
        if self.folder is not None:
            for path in self.folder.glob(f"{file.removesuffix('sqlite')}*"):
                path.unlink(missing_ok=True)

    def forget(self, space: str) -> None:
        """Release the features of a model in memory."""
        with self._lock:
            for _, index in self._open.values():
                index.forget(space)

    @property
    def memory(self) -> int:
        """Bytes of all indexes in memory."""
        return 0 if self.folder is not None else sum(index.size for index in self.all())

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call on an index or this store, computed in a thread.

        Raises:
            ApiError: 503, the index's file is damaged, or cannot be read or written now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, call, *arguments)
        except (sqlite3.Error, OSError) as error:
            path = getattr(getattr(call, "__self__", None), "path", "an index")
            log.error("cannot read or write %s: %s", path, error)
            if type(error) is sqlite3.DatabaseError:
                raise ApiError(503, "the index is damaged; see the log", code="damaged") from None
            text = "the index cannot be read or written; retry after 5 s"
            raise ApiError(503, text, 5, code="storage") from None

    def close(self) -> None:
        """End the threads, and close all files."""
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            for _, index in self._open.values():
                index.close()
            self._open.clear()

    def _index_at(self, file: str) -> Index | None:
        """Return the index of a file, which another process can replace or delete."""
        with self._lock:
            inode, index = self._open.get(file, (0, None))
            if self.folder is None:
                return index
            path = self.folder / file
            current = path.stat().st_ino if path.exists() else 0
            if index is not None and inode != current:
                self._open.pop(file)[1].close()
            if current and inode != current:
                try:
                    self._open[file] = current, Index(path)
                except ValueError as error:
                    log.warning("%s", error)
            return self._open.get(file, (0, None))[1]


def _file_name(name: str) -> str:
    """Return the file name of an index: a hash, so a client's text is never part of a path."""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.sqlite"
