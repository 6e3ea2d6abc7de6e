"""An index of pictures: their features, for search, and small copies of them, to be shown.

Each is one SQLite file, so a change is there as a whole or not at all, whatever interrupts it.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from albef.runtime.model import Floats, Ints
from albef.serving.neighbours import Approximate, Exact, available

log = logging.getLogger("albef")
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""What an index may be called."""
ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a picture may be called."""
EXACT = 1_000_000
"""Pictures up to which all are compared."""
FORMAT = 1
_SERIALS = itertools.count()
_TABLES = """
CREATE TABLE about (name TEXT, space TEXT, run TEXT, width INTEGER, format INTEGER);
CREATE TABLE features (number INTEGER PRIMARY KEY AUTOINCREMENT, feat BLOB NOT NULL);
CREATE TABLE pictures (id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, digest TEXT NOT NULL,
                       thumbnail BLOB NOT NULL, square BLOB NOT NULL);
CREATE TABLE removed (revision INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL);
"""


class Entry(NamedTuple):
    """A picture to be added.

    Attributes:
        id: as :data:`ID`; a picture that has it is replaced.
        digest: SHA-256 of its file.
        feat: (E,).
        thumbnail: JPEG, to be shown.
        square: PNG at the model's size, to be read together with a text.
    """

    id: str
    digest: str
    feat: Floats
    thumbnail: bytes
    square: bytes


class Hit(NamedTuple):
    """A picture found: its number, which no other of the index ever has, its id, similarity."""

    number: int
    id: str
    similarity: float


class _State(NamedTuple):
    """How far the features in memory have followed the file."""

    highest: int = 0
    revision: int = 0


class Index:
    """A named set of pictures; threads and processes may share one.

    Args:
        path: of its file; None keeps it in memory.
        exact: pictures up to which all are compared; beyond, faiss picks.

    Attributes:
        name: what it is called.
        space: of the model whose features it holds.
        run: what that model is called.
        serial: of this object in this process; no other has it.

    Raises:
        ValueError: the file is no index, or of another version.
    """

    def __init__(self, path: Path | None, exact: int = EXACT) -> None:
        self._path, self._exact = path, exact
        self._lock, self._settling = threading.RLock(), threading.Lock()
        self._near: Exact | Approximate | None = None
        self._state = _State()
        # The wait is for another process, which holds the file for the time of one change.
        self._file = sqlite3.connect(
            path or ":memory:", timeout=10, check_same_thread=False, isolation_level=None
        )
        self.serial = next(_SERIALS)
        self.name = self.space = self.run = ""
        self.width = 0
        if path is not None:
            self._about()

    def _about(self) -> None:
        try:
            row = self._file.execute("SELECT format, name, space, run, width FROM about").fetchone()
        except sqlite3.DatabaseError as error:
            self._file.close()
            raise ValueError(f"{self._path} is no index of pictures: {error}") from None
        if row is None or row[0] != FORMAT:
            self._file.close()
            raise ValueError(f"{self._path} is no index of format {FORMAT}; delete it")
        _, self.name, self.space, self.run, self.width = row

    @classmethod
    def create(
        cls, path: Path | None, name: str, space: str, run: str, width: int, exact: int = EXACT
    ) -> "Index":
        """Make an empty one; the arguments are its attributes, ``width`` is E.

        Raises:
            FileExistsError: there is a file at ``path``.
        """
        about = (name, space, run, width, FORMAT)
        if path is None:
            index = cls(None, exact)
            _fill(index._file, about)
            index._about()
            return index
        part = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as file:
                _fill(file, about)
            os.link(part, path)  # whole, or not at all, and only if nobody was faster
        finally:
            part.unlink(missing_ok=True)
        return cls(path, exact)

    def __len__(self) -> int:
        with self._lock:
            return int(self._file.execute("SELECT count(*) FROM features").fetchone()[0])

    @property
    def approximate(self) -> bool:
        """Whether a search leaves out pictures that are unlikely to be near."""
        return isinstance(self._near, Approximate)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def digests(self) -> dict[str, str]:
        """The digest of each picture's file, by id."""
        with self._lock:
            return dict(self._file.execute("SELECT id, digest FROM pictures"))

    def add(self, entries: Sequence[Entry]) -> None:
        """Add pictures, all or none; those that are there already stay as they are."""
        with self._change():
            for entry in entries:
                before = self._file.execute(
                    "SELECT number, digest FROM pictures WHERE id = ?", (entry.id,)
                ).fetchone()
                if before and before[1] == entry.digest:
                    continue
                if before:
                    self._drop(before[0])
                number = self._file.execute(
                    "INSERT INTO features (feat) VALUES (?)",
                    (np.ascontiguousarray(entry.feat, "<f4").tobytes(),),
                ).lastrowid
                self._file.execute(
                    "INSERT INTO pictures VALUES (?, ?, ?, ?, ?)",
                    (entry.id, number, entry.digest, entry.thumbnail, entry.square),
                )

    def remove(self, ids: Iterable[str]) -> int:
        """Take pictures out, all or none; how many there were."""
        found = 0
        with self._change():
            for name in ids:
                row = self._file.execute(
                    "SELECT number FROM pictures WHERE id = ?", (name,)
                ).fetchone()
                if row:
                    self._drop(row[0])
                    found += 1
        return found

    def thumbnail(self, id: str) -> bytes | None:
        """A picture to be shown, a JPEG; None where there is none."""
        with self._lock:
            row = self._file.execute(
                "SELECT thumbnail FROM pictures WHERE id = ?", (id,)
            ).fetchone()
        return row and bytes(row[0])

    def square(self, number: int) -> bytes | None:
        """A picture at the model's size, a PNG; None where it was removed since."""
        with self._lock:
            row = self._file.execute(
                "SELECT square FROM pictures WHERE number = ?", (number,)
            ).fetchone()
        return row and bytes(row[0])

    def search(self, feat: Floats, k: int) -> list[Hit]:
        """The pictures whose features are the most similar to ``feat`` (E,), at most ``k``."""
        with self._lock:
            near = self._follow().search(feat, k)
            ids = dict(
                self._file.execute(
                    "SELECT number, id FROM pictures WHERE number IN "
                    f"({','.join('?' * len(near.numbers))})",
                    near.numbers.tolist(),
                )
            )
        pairs = zip(near.numbers.tolist(), near.similarities.tolist(), strict=True)
        return [Hit(number, ids[number], sim) for number, sim in pairs if number in ids]

    def settle(self) -> None:
        """Where there are too many pictures to compare all, sort them into cells.

        It takes a while, during which searches go on as before.
        """
        if not self._settling.acquire(blocking=False):
            return  # somebody is at it
        try:
            with self._lock:
                near = self._follow()
                if not isinstance(near, Exact) or len(near) <= self._exact or not available():
                    return
                state = self._state
                numbers, feats = near.copy()
            cells = Approximate.train(feats)
            cells.add(numbers, feats)
            self._save(cells, state)
            with self._lock:
                self._near, self._state = cells, state
                self._follow()
        finally:
            self._settling.release()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._file.execute("COMMIT")
            except BaseException:
                self._file.execute("ROLLBACK")
                raise

    def _drop(self, number: int) -> None:
        self._file.execute("DELETE FROM pictures WHERE number = ?", (number,))
        self._file.execute("DELETE FROM features WHERE number = ?", (number,))
        self._file.execute("INSERT INTO removed (number) VALUES (?)", (number,))

    def _follow(self) -> Exact | Approximate:
        """The features in memory, brought to what the file holds, whoever changed it."""
        if self._near is None:
            self._near, self._state = self._saved() or (Exact(self.width), _State())
        highest, revision = self._file.execute(
            "SELECT (SELECT ifnull(max(number), 0) FROM features),"
            " (SELECT ifnull(max(revision), 0) FROM removed)"
        ).fetchone()
        if revision > self._state.revision:
            gone = self._file.execute(
                "SELECT number FROM removed WHERE revision > ? AND number <= ?",
                (self._state.revision, self._state.highest),
            )
            self._near.remove(np.array([row[0] for row in gone], np.int64))
        if highest > self._state.highest:
            for numbers, feats in self._features(self._state.highest):
                self._near.add(numbers, feats)
        self._state = _State(max(highest, self._state.highest), revision)
        return self._near

    def _features(self, after: int, part: int = 50_000) -> Iterator[tuple[Ints, Floats]]:
        """Numbers (n,) above ``after`` and their features (n, E), in parts."""
        rows = self._file.execute(
            "SELECT number, feat FROM features WHERE number > ? ORDER BY number", (after,)
        )
        while some := rows.fetchmany(part):
            feats = np.frombuffer(b"".join(feat for _, feat in some), "<f4")
            yield np.array([number for number, _ in some], np.int64), feats.reshape(len(some), -1)

    def _save(self, cells: Approximate, state: _State) -> None:
        """Keep cells for the next start; they are only a copy of what the file has."""
        if self._path is None:
            return
        path = self._path.with_suffix(f".{state.highest}.{state.revision}.faiss")
        part = path.with_suffix(f".{os.getpid()}.part")
        cells.save(part)
        old = [other for other in self._cells() if other != path]
        part.replace(path)
        for other in old:
            other.unlink(missing_ok=True)

    def _saved(self) -> tuple[Approximate, _State] | None:
        for path in self._cells():
            _, highest, revision = path.name.removesuffix(".faiss").rsplit(".", 2)
            try:
                return Approximate.load(path), _State(int(highest), int(revision))
            except Exception as error:  # faiss raises bare ones; the features are in the file
                log.warning("%s cannot be read (%s); it is made again", path, error)
        return None

    def _cells(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{self._path.stem}.*.faiss")) if self._path else []


def _fill(file: sqlite3.Connection, about: tuple[str, str, str, int, int]) -> None:
    file.executescript(f"BEGIN; {_TABLES}")
    file.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", about)
    file.execute("COMMIT")


class Store:
    """The indexes of a server.

    Args:
        folder: of their files; None keeps what there is in memory.
        exact: see :class:`Index`.
    """

    def __init__(self, folder: Path | None, exact: int = EXACT) -> None:
        self.folder, self._exact = folder, exact
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[int, Index]] = {}
        self._memory: dict[str, Index] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> Index | None:
        """The index of a name, which may be anything."""
        if self.folder is None:
            return self._memory.get(name)
        return self._at(self._path(name))

    def all(self) -> list[Index]:
        """Every index, by name."""
        found = list(self._memory.values())
        if self.folder is not None:
            found += filter(None, map(self._at, sorted(self.folder.glob("*.sqlite"))))
        return sorted(found, key=lambda index: index.name)

    def create(self, name: str, space: str, run: str, width: int) -> Index:
        """Make an empty index.

        Raises:
            FileExistsError: somebody was faster.
        """
        path = None if self.folder is None else self._path(name)
        index = Index.create(path, name, space, run, width, self._exact)
        if path is None:
            return self._memory.setdefault(name, index)
        index.close()
        opened = self._at(path)
        assert opened is not None
        return opened

    def delete(self, name: str) -> None:
        """Delete an index and all that belongs to it."""
        index = self._memory.pop(name, None)
        if self.folder is not None:
            path = self._path(name)
            with self._lock:
                _, index = self._open.pop(path, (0, None))
            path.unlink(missing_ok=True)
            for other in self.folder.glob(f"{path.stem}.*"):
                other.unlink(missing_ok=True)
        if index is not None:
            index.close()

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for _, index in self._open.values():
                index.close()
            self._open.clear()
        for index in self._memory.values():
            index.close()

    def _path(self, name: str) -> Path:
        """Nothing of a name that a client gave is in a path."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.sqlite"

    def _at(self, path: Path) -> Index | None:
        """The index of a file, opened once; another process may have replaced or deleted it."""
        with self._lock:
            inode, index = self._open.get(path, (0, None))
            try:
                there = path.stat().st_ino
            except FileNotFoundError:
                there = 0
            if index is not None and inode != there:
                index.close()
                del self._open[path]
                index = None
            if index is None and there:
                try:
                    index = Index(path, self._exact)
                except ValueError as error:
                    log.warning("%s", error)
                    return None
                self._open[path] = there, index
            return index
