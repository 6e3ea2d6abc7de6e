"""Image index: features for search, and small copies of the images for display.

Each index is one SQLite file, so every change is atomic, even if the process is interrupted. An
image can have a feature for each of several models. The features that are searched are also in
memory, as 8-bit numbers. A query is compared with all of them, and then with the best ones as they
are in the file. Shapes: n images, E width.
"""

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from albef.runtime.model import Floats, Ints

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"  # Pattern of an index's name
ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"  # Pattern of an image's id
FORMAT = 2
_PART = 50_000  # Features read at a time.
_COMPARED = 1000  # Features compared at a time, which fit into the processor's cache.
_CANDIDATES = 20  # Features compared again, in addition to twice the number of results.
_SERIALS = itertools.count()
_TABLES = (
    "CREATE TABLE about (name TEXT, space TEXT, run TEXT, width INTEGER, format INTEGER)",
    "CREATE TABLE features (number INTEGER PRIMARY KEY AUTOINCREMENT, feat BLOB NOT NULL, "
    "space TEXT, picture INTEGER)",
    "CREATE UNIQUE INDEX features_of ON features (picture, space)",
    "CREATE TABLE pictures (id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, "
    "digest TEXT NOT NULL, thumbnail BLOB NOT NULL, square BLOB NOT NULL)",
    "CREATE TABLE removed (revision INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL)",
)


class About(NamedTuple):
    """Name of an index, and the model that created it: feature space, run and width E."""

    name: str
    space: str
    run: str
    width: int


class Entry(NamedTuple):
    """An image to add. It replaces an image with the same id."""

    id: str
    digest: str  # SHA-256 of the image's file
    feat: Floats  # (E,)
    thumbnail: bytes  # JPEG for display
    square: bytes  # PNG at the model's input size, to be read together with a text


class Hit(NamedTuple):
    """An image found: its number, which is never reused in the index, its id and its similarity."""

    number: int
    id: str
    similarity: float


class _Features:
    """Features of one model in memory: ``codes`` (n, E) of the images ``numbers`` (n,).

    A feature is its codes times its scale, of ``scales`` (n,).
    """

    def __init__(self, width: int) -> None:
        self.highest = self.revision = 0  # The last row of the file's tables that was followed.
        self.numbers: Ints = np.empty(0, np.int64)
        self.codes, self.scales = quantized(np.empty((0, width), np.float32))

    def nearest(self, feat: Floats, count: int) -> list[int]:
        """Return the numbers of the ``count`` images that seem most similar to ``feat`` (E,)."""
        sims = np.empty(len(self.numbers), np.float32)
        for start in range(0, len(sims), _COMPARED):
            part = slice(start, start + _COMPARED)
            sims[part] = self.codes[part].astype(np.float32) @ feat * self.scales[part]
        best = np.argpartition(-sims, count)[:count] if count < len(sims) else slice(None)
        numbers: list[int] = self.numbers[best].tolist()
        return numbers


def quantized(feats: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return features (n, E) as 8-bit codes (n, E), and the scale (n,) of each one's codes."""
    largest = np.abs(feats).max(axis=1, initial=1e-30, keepdims=True)
    return np.rint(feats * (127 / largest)).astype(np.int8), (largest / 127)[:, 0]


class Index:
    """A named set of images in a file or in memory, which threads and processes can share.

    If the index does not exist, it is created from ``new``. Its ``serial`` is unique in the
    process.

    Raises:
        ValueError: the file is not an index, or is of another version.
    """

    def __init__(self, path: Path | None, new: About | None = None) -> None:
        self._lock, self.path = threading.RLock(), path
        self.serial = next(_SERIALS)
        # The timeout is for another process, which locks the file during one change.
        self._file = sqlite3.connect(
            path or ":memory:", timeout=10, check_same_thread=False, isolation_level=None
        )
        try:
            if new is not None:
                self._create(new)
            ((version, *about),) = self._rows("SELECT format, name, space, run, width FROM about")
            if version != FORMAT:
                raise ValueError(f"it has format {version}, this version reads {FORMAT}")
            if list(map(type, about)) != [str, str, str, int]:
                raise ValueError(f"it describes itself as {about}")
            self._rows("SELECT 1 FROM features, pictures, removed LIMIT 0")
        except (sqlite3.DatabaseError, ValueError) as error:
            self._file.close()
            raise ValueError(f"{path} is not an image index ({error}); delete the file") from None
        self.about = About(*about)
        self._features: dict[str, _Features] = {}

    def __len__(self) -> int:
        return int(self._rows("SELECT count(*) FROM pictures")[0][0])

    @property
    def size(self) -> int:
        """Bytes of its file, or of its memory if it has no file."""
        query = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        return int(self._rows(query)[0][0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def digests(self) -> dict[str, str]:
        """Return the digest of each image's file, by id."""
        return dict(self._rows("SELECT id, digest FROM pictures"))

    def add(self, space: str, entries: Sequence[Entry]) -> None:
        """Add images with their features of a model, all or none.

        An image that is already in the index with the same digest is kept as it is.
        """
        with self._change():
            for entry in entries:
                existing = self._rows("SELECT number, digest FROM pictures WHERE id = ?", entry.id)
                if existing and existing[0][1] == entry.digest:
                    self._put(space, existing[0][0], entry.feat)
                    continue
                self._drop(existing)
                number = self._put(space, None, entry.feat)
                row = (entry.id, number, entry.digest, entry.thumbnail, entry.square)
                self._file.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", row)

    def without_feature(self, space: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return the first ``limit`` images without a feature of a model, numbered above ``after``.

        Each is its number and its square image.
        """
        query = (
            "SELECT number, square FROM pictures WHERE number > ? AND NOT EXISTS (SELECT 1 FROM "
            "features WHERE picture = pictures.number AND space = ?) ORDER BY number LIMIT ?"
        )
        return self._rows(query, after, space, limit)

    def put(self, space: str, numbers: Sequence[int], feats: Floats) -> None:
        """Set features (n, E) of a model for images, all or none. Removed images are skipped."""
        with self._change():
            for number, feat in zip(numbers, feats, strict=True):
                if self._rows("SELECT 1 FROM pictures WHERE number = ?", number):
                    self._put(space, number, feat)

    def keep(self, space: str) -> None:
        """Delete all features except those of a model and of the one before it."""
        with self._change():
            self._file.execute(
                "DELETE FROM features WHERE space != :kept AND space != (SELECT space FROM "
                "features WHERE space != :kept ORDER BY number DESC LIMIT 1)",
                {"kept": space},
            )

    def forget(self, space: str) -> None:
        """Release the features of a model in memory."""
        with self._lock:
            self._features.pop(space, None)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images, all or none; return the number removed."""
        with self._change():
            return sum(
                self._drop(self._rows("SELECT number FROM pictures WHERE id = ?", id)) for id in ids
            )

    def thumbnail(self, id: str) -> bytes | None:
        """Return an image for display, as JPEG; None if it does not exist."""
        rows = self._rows("SELECT thumbnail FROM pictures WHERE id = ?", id)
        return rows[0][0] if rows else None

    def square(self, number: int) -> bytes | None:
        """Return an image at the model's input size, as PNG; None if it was removed."""
        rows = self._rows("SELECT square FROM pictures WHERE number = ?", number)
        return rows[0][0] if rows else None

    def search(self, space: str, feat: Floats, k: int) -> list[Hit]:
        """Return the ``k`` images whose features of a model are most similar to ``feat`` (E,).

        Of equally similar images, the one that was added first comes first.
        """
        with self._lock:
            numbers = self._follow(space, len(feat)).nearest(feat, 2 * k + _CANDIDATES)
            rows = self._rows(
                "SELECT pictures.number, id, feat FROM pictures JOIN features ON picture = "
                f"pictures.number WHERE space = ? AND picture IN ({','.join('?' * len(numbers))})",
                *(space, *numbers),
            )
        hits = [Hit(n, id, float(np.frombuffer(row, "<f4") @ feat)) for n, id, row in rows]
        return sorted(hits, key=lambda hit: (-hit.similarity, hit.number))[:k]

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
        """Create the tables, unless another process has done so."""
        with self._change():
            if not self._rows("SELECT 1 FROM sqlite_master"):
                for table in _TABLES:
                    self._file.execute(table)
                row = (*about, FORMAT)
                self._file.execute("INSERT INTO about VALUES (?, ?, ?, ?, ?)", row)

    def _put(self, space: str, picture: int | None, feat: Floats) -> int:
        """Set the feature of an image (None: a new one) unless it has one; return its number."""
        row = (np.ascontiguousarray(feat, "<f4").tobytes(), space, picture)
        query = "INSERT OR IGNORE INTO features (feat, space, picture) VALUES (?, ?, ?)"
        added = self._file.execute(query, row).lastrowid
        if picture is None:
            self._file.execute("UPDATE features SET picture = number WHERE number = ?", (added,))
        number = added if picture is None else picture
        assert number is not None
        return number

    def _drop(self, rows: list[tuple[Any, ...]]) -> int:
        """Remove the image of a row that begins with its number; return the number removed."""
        for number in (row[0] for row in rows):
            self._file.execute("DELETE FROM pictures WHERE number = ?", (number,))
            self._file.execute("DELETE FROM features WHERE picture = ?", (number,))
            self._file.execute("INSERT INTO removed (number) VALUES (?)", (number,))
        return len(rows)

    def _follow(self, space: str, width: int) -> _Features:
        """Return the features of a model in memory, updated to all changes of the file."""
        features = self._features.setdefault(space, _Features(width))
        query = "SELECT revision, number FROM removed WHERE revision > ? ORDER BY revision"
        if removed := self._rows(query, features.revision):
            features.revision = removed[-1][0]
            retained = ~np.isin(features.numbers, [number for _, number in removed])
            features.numbers, features.codes = features.numbers[retained], features.codes[retained]
            features.scales = features.scales[retained]
        query = (
            "SELECT number, picture, feat FROM features WHERE number > ? AND space = ? "
            "ORDER BY number"
        )
        added = self._file.execute(query, (features.highest, space))
        numbers, codes, scales = [features.numbers], [features.codes], [features.scales]
        while rows := added.fetchmany(_PART):
            features.highest = rows[-1][0]
            numbers.append(np.array([picture for _, picture, _ in rows], np.int64))
            if {len(feat) for *_, feat in rows} != {4 * width}:
                raise sqlite3.DatabaseError(f"a feature does not have {width} numbers")
            part = np.frombuffer(b"".join(feat for *_, feat in rows), "<f4")
            new_codes, new_scales = quantized(part.reshape(-1, width))
            codes.append(new_codes)
            scales.append(new_scales)
        if len(numbers) > 1:
            features.numbers = np.concatenate(numbers)
            features.codes, features.scales = np.concatenate(codes), np.concatenate(scales)
        return features
