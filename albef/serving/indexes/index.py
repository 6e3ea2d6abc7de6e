"""An index of pictures: their features, for search, and small copies of them, to be shown.

Each is one SQLite file, so a change is there as a whole or not at all, whatever interrupts it.
"""

import contextlib
import itertools
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from albef.io import atomic
from albef.runtime.model import Floats, Ints
from albef.serving.indexes.neighbours import Approximate, Exact, has_faiss

log = logging.getLogger("albef")
NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""What an index may be called."""
ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a picture may be called."""
EXACT = 1_000_000
"""Pictures up to which all are compared."""
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
    """What an index is.

    Attributes:
        name: what it is called.
        space: of the model whose features it holds.
        run: what that model is called.
        width: E.
    """

    name: str
    space: str
    run: str
    width: int


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


class _Followed(NamedTuple):
    """How far the features in memory have followed the file."""

    highest: int = 0
    revision: int = 0


class Index:
    """A named set of pictures; threads and processes may share one.

    Args:
        path: of its file; None keeps it in memory.
        new: what it is to be, where it is not there yet.
        exact: pictures up to which all are compared; beyond, faiss picks.

    Attributes:
        about: what it is.
        serial: of this object in this process; no other has it.

    Raises:
        ValueError: the file is no index, or of another version.
    """

    def __init__(self, path: Path | None, new: About | None = None, exact: int = EXACT) -> None:
        self._path, self._exact = path, exact
        self._lock, self._settling = threading.RLock(), threading.Lock()
        self._features: Exact | Approximate | None = None
        self._followed = _Followed()
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

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM features")[0][0])

    @property
    def approximate(self) -> bool:
        """Whether a search leaves out pictures that are unlikely to be near."""
        return isinstance(self._features, Approximate)

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
        """The pictures whose features are the most similar to ``feat`` (E,), at most ``k``."""
        with self._lock:
            numbers, similarities = (each.tolist() for each in self._follow().search(feat, k))
            marks = ",".join("?" * len(numbers))
            query = f"SELECT number, id FROM pictures WHERE number IN ({marks})"
            ids = dict(self._rows(query, *numbers))
        nearest = zip(numbers, similarities, strict=True)
        return [Hit(number, ids[number], sim) for number, sim in nearest if number in ids]

    def settle(self) -> None:
        """Where there are too many pictures to compare all, sort them into cells.

        It takes a while, during which searches go on as before.
        """
        if not self._settling.acquire(blocking=False):
            return  # somebody is at it
        try:
            with self._lock:
                features, followed = self._follow(), self._followed
                if isinstance(features, Approximate) or len(features) <= self._exact:
                    return
                if not has_faiss():
                    return
                numbers, feats = features.copy()
            cells = Approximate.train(feats)
            cells.add(numbers, feats)
            self._keep(cells, followed)
            with self._lock:
                self._features, self._followed = cells, followed
                self._follow()
        finally:
            self._settling.release()

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

    def _follow(self) -> Exact | Approximate:
        """The features in memory, brought to what the file holds, whoever changed it."""
        if self._features is None:
            self._features, self._followed = self._kept() or (Exact(self.about.width), _Followed())
        before = self._followed
        ((highest, revision),) = self._rows(
            "SELECT (SELECT ifnull(max(number), 0) FROM features),"
            " (SELECT ifnull(max(revision), 0) FROM removed)"
        )
        if revision > before.revision:
            gone = self._rows("SELECT number FROM removed WHERE revision > ?", before.revision)
            self._features.remove(np.array([number for (number,) in gone], np.int64))
        for numbers, feats in self._after(before.highest):
            self._features.add(numbers, feats)
        self._followed = _Followed(max(highest, before.highest), revision)
        return self._features

    def _after(self, highest: int) -> Iterator[tuple[Ints, Floats]]:
        """Numbers (n,) above the ``highest`` so far and their features (n, E), in parts."""
        rows = self._file.execute(
            "SELECT number, feat FROM features WHERE number > ? ORDER BY number", (highest,)
        )
        while part := rows.fetchmany(_PART):
            feats = np.frombuffer(b"".join(feat for _, feat in part), "<f4")
            yield np.array([number for number, _ in part], np.int64), feats.reshape(len(part), -1)

    def _keep(self, cells: Approximate, followed: _Followed) -> None:
        """Keep cells for the next start; they are only a copy of what the file has."""
        if self._path is None:
            return
        outdated = self._cell_files()
        path = self._path.with_suffix(f".{followed.highest}.{followed.revision}.faiss")
        with atomic(path) as part:
            cells.save(part)
        for file in outdated:
            if file != path:
                file.unlink(missing_ok=True)

    def _kept(self) -> tuple[Approximate, _Followed] | None:
        for path in self._cell_files():
            _, highest, revision = path.name.removesuffix(".faiss").rsplit(".", 2)
            try:
                return Approximate.load(path), _Followed(int(highest), int(revision))
            except Exception as error:  # faiss raises bare ones; the features are in the file
                log.warning("%s cannot be read (%s); it is made again", path, error)
        return None

    def _cell_files(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{self._path.stem}.*.faiss")) if self._path else []
