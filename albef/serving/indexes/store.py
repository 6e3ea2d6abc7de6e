"""The indexes of a server, by name."""

import hashlib
import logging
import threading
from pathlib import Path

from albef.serving.indexes.index import About, Index

log = logging.getLogger("albef")
GALLERY = "gallery"
"""The index that follows a folder, if one is named."""


class Store:
    """The indexes of a server; processes may share a ``folder`` of them. None keeps them in memory,
    as long as the server lives. Clients do not change the index that is ``read_only``."""

    def __init__(self, folder: Path | None, read_only: str = "") -> None:
        self.folder, self.read_only = folder, read_only
        self._lock = threading.RLock()
        self._open: dict[str, tuple[int, Index]] = {}  # by file, with the file's inode
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> Index | None:
        """The index of a name, which may be anything."""
        return self._index_at(_file_name(name))

    def all(self) -> list[Index]:
        """Every index, by name."""
        files = [path.name for path in self.folder.glob("*.sqlite")] if self.folder else self._open
        indexes = filter(None, map(self._index_at, list(files)))
        return sorted(indexes, key=lambda index: index.about.name)

    def create(self, about: About) -> Index:
        """Make an empty index; one that is there already stays as it is."""
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
        """Delete an index and all that belongs to it."""
        file = _file_name(name)
        with self._lock:
            if file in self._open:
                self._open.pop(file)[1].close()
        if self.folder is not None:
            for path in self.folder.glob(f"{file.removesuffix('sqlite')}*"):
                path.unlink(missing_ok=True)

    def forget(self, space: str) -> None:
        """Let go of the features of a model in memory."""
        with self._lock:
            for _, index in self._open.values():
                index.forget(space)

    @property
    def memory(self) -> int:
        """Bytes that indexes take which are kept in memory."""
        return 0 if self.folder is not None else sum(index.size for index in self.all())

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for _, index in self._open.values():
                index.close()
            self._open.clear()

    def _index_at(self, file: str) -> Index | None:
        """The index of a file, opened once; another process may have replaced or deleted it."""
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
    """Nothing of a name that a client gave is in a path."""
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.sqlite"
