"""An index of pictures: their features, for search, and small copies of them, to be shown.

Each is one SQLite file, so a change is there as a whole or not at all, whatever interrupts it. Its
features are in memory too, and a query is compared with all of them. Shapes: n pictures, E width.
"""

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from albef.runtime.model import Floats, Ints

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""What an index may be called."""
ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a picture may be called."""
FORMAT = 1
_PART = 50_000  # features that are read at a time
_SERIALS = itertools.count()
_TABLES = (
    "CREATE TABLE about (name TEXT, space TEXT, run TEXT, width INTEGER, format INTEGER)",
    "CREATE TABLE features (number INTEGER PRIMARY KEY AUTOINCREMENT, feat BLOB NOT NULL)",
    "CREATE TABLE pictures (id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, "
    "digest TEXT NOT NULL, thumbnail BLOB NOT NULL, square BLOB NOT NULL)",
    "CREATE TABLE removed (revision INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL)",
)


class About(NamedTuple):
    """What an index is called, and the model whose features it holds: what decides them, the run
    that made it, and their width E."""

    name: str
    space: str
    run: str
    width: int


class Entry(NamedTuple):
    """A picture to be added, in the place of one of the same id."""

    id: str
    digest: str
    """SHA-256 of its file."""
    feat: Floats
    """(E,)."""
    thumbnail: bytes
    """JPEG, to be shown."""
    square: bytes
    """PNG at the model's size, to be read together with a text."""


class Hit(NamedTuple):
    """A picture found: its number, which no other of the index ever has, its id, similarity."""

    number: int
    id: str
    similarity: float


class Index:
    """A named set of pictures in a file, or in memory; threads and processes may share one. It is
    made as ``new`` says where it is not there yet. No other of the process has its ``serial``.

    Raises:
        ValueError: the file is no index, or of another version.
    """

    def __init__(self, path: Path | None, new: About | None = None) -> None:
        self._lock = threading.RLock()
        self.serial = next(_SERIALS)
        # The wait is for another process, which holds the file for the time of one change.
        self._file = sqlite3.connect(
            path or ":memory:", timeout=10, check_same_thread=False, isolation_level=None
        )
        try:
            if new is not None:
                self._create(new)
            ((version, *about),) = self._rows("SELECT format, name, space, run, width FROM about")
            if version != FORMAT:
                raise ValueError(f"its format is {version}, not {FORMAT}; delete it")
        except (sqlite3.DatabaseError, ValueError) as error:
            self._file.close()
            raise ValueError(f"{path} is no index of pictures: {error}") from None
        self.about = About(*about)
        self._highest = self._revision = 0  # of the file, as far as it has been followed
        self._numbers: Ints = np.empty(0, np.int64)
        self._feats: Floats = np.empty((0, self.about.width), np.float32)

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM features")[0][0])

    @property
    def size(self) -> int:
        """Bytes of its file, or of the memory that it takes in place of one."""
        query = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        return int(self._rows(query)[0][0])

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def digests(self) -> dict[str, str]:
        """The digest of each picture's file, by id."""
        return dict(self._rows("SELECT id, digest FROM pictures"))

    def add(self, entries: Sequence[Entry]) -> None:
        """Add pictures, all or none; those that are there already stay as they are."""
        with self._change():
            for entry in entries:
                before = self._rows("SELECT number, digest FROM pictures WHERE id = ?", entry.id)
                if before and before[0][1] == entry.digest:
                    continue
                self._drop(before)
                feat = np.ascontiguousarray(entry.feat, "<f4").tobytes()
                number = self._file.execute(
                    "INSERT INTO features (feat) VALUES (?)", (feat,)
                ).lastrowid
                row = (entry.id, number, entry.digest, entry.thumbnail, entry.square)
                self._file.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, ids: Iterable[str]) -> int:
        """Take pictures out, all or none; how many there were."""
        with self._change():
            return sum(
                self._drop(self._rows("SELECT number FROM pictures WHERE id = ?", id)) for id in ids
            )

    def thumbnail(self, id: str) -> bytes | None:
        """A picture to be shown, a JPEG; None where there is none."""
        rows = self._rows("SELECT thumbnail FROM pictures WHERE id = ?", id)
        return rows[0][0] if rows else None

    def square(self, number: int) -> bytes | None:
        """A picture at the model's size, a PNG; None where it was removed since."""
        rows = self._rows("SELECT square FROM pictures WHERE number = ?", number)
        return rows[0][0] if rows else None

    def search(self, feat: Floats, k: int) -> list[Hit]:
        """The pictures whose features are the most similar to ``feat`` (E,), at most ``k``; of
        equal ones the first that came."""
        with self._lock:
            self._follow()
            sims = self._feats @ feat
            k = min(k, len(sims))
            some = np.argpartition(-sims, k - 1)[:k] if k else np.empty(0, np.int64)
            best = some[np.lexsort((some, -sims[some]))]
            numbers = self._numbers[best].tolist()
            marks = ",".join("?" * len(numbers))
            query = f"SELECT number, id FROM pictures WHERE number IN ({marks})"
            ids = dict(self._rows(query, *numbers))
        nearest = zip(numbers, sims[best].tolist(), strict=True)
        return [Hit(number, ids[number], sim) for number, sim in nearest if number in ids]

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._file.execute(query, values).fetchall()

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

    def _create(self, about: About) -> None:
        """Make the tables, unless another process was faster."""
        with self._change():
            if not self._rows("SELECT 1 FROM sqlite_master"):
                for table in _TABLES:
                    self._file.execute(table)
                self._file.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", (*about, FORMAT))

    def _drop(self, rows: list[tuple[Any, ...]]) -> int:
        """Take the picture of a row that begins with its number out; how many there were."""
        for number in (row[0] for row in rows):
            self._file.execute("DELETE FROM pictures WHERE number = ?", (number,))
            self._file.execute("DELETE FROM features WHERE number = ?", (number,))
            self._file.execute("INSERT INTO removed (number) VALUES (?)", (number,))
        return len(rows)

    def _follow(self) -> None:
        """Bring the features in memory to what the file holds, whoever changed it."""
        query = "SELECT revision, number FROM removed WHERE revision > ? ORDER BY revision"
        if gone := self._rows(query, self._revision):
            self._revision = gone[-1][0]
            kept = ~np.isin(self._numbers, [number for _, number in gone])
            self._numbers, self._feats = self._numbers[kept], self._feats[kept]
        query = "SELECT number, feat FROM features WHERE number > ? ORDER BY number"
        added = self._file.execute(query, (self._highest,))
        numbers, feats = [self._numbers], [self._feats]
        while rows := added.fetchmany(_PART):
            self._highest = rows[-1][0]
            numbers.append(np.array([number for number, _ in rows], np.int64))
            part = np.frombuffer(b"".join(feat for _, feat in rows), "<f4")
            feats.append(part.reshape(len(rows), -1))
        if len(numbers) > 1:
            self._numbers, self._feats = np.concatenate(numbers), np.concatenate(feats)
