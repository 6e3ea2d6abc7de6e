"""Prepared rows on disk, between sources and shards, in blocks that are complete or absent.

A block is an Arrow file ``rows-N`` with everything known about its rows except their images, which
are in files ``images-N``. A folder keeps the blocks of the previous ingest and of an interrupted
one. If a source yields a row again, at any position, it is taken from these blocks. Only new rows
are prepared.
"""

import functools
import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.cleaning import escape_surrogates
from albef.ingest.pool import NumberedRow
from albef.ingest.prepare import KEY, ORIGINAL, Prepared, name_of
from albef.io import atomic

EXAMPLES = 12
"""Rows of each source and reason that are kept as examples."""
SCHEMA = pa.schema({
    "source": pa.string(), "line": pa.int64(), "name": pa.string(), "reason": pa.string(),
    "detail": pa.string(), "key": pa.string(), "split": pa.string(), "image_id": pa.int64(),
    "captions": pa.list_(pa.string()), "meta": pa.string(), "digests": pa.list_(pa.binary(16)),
    "phashes": pa.list_(pa.uint64()), "thumbnail": pa.binary(), "digest": pa.binary(16),
    "images": pa.int64(), "position": pa.int64(),
})  # fmt: skip
"""Columns of a block's rows. ``reason`` is null if a row is kept so far, and ``thumbnail`` is a
small image of a rejected row. ``digest`` is that of the row as its source gave it. ``images`` is
the number of the file with its images, and ``position`` is their position in it."""
_IMAGES = pa.schema([("images", pa.list_(pa.large_binary()))])
_MAX_CHARS = 8000  # of a row's name, and of its detail
_MAX_ROWS = 2**32  # of a block
_MAX_OPEN = 64  # files that stay open, the most recently used ones


Values = dict[str, Any]
"""Columns of a row by name, as :data:`SCHEMA`."""


class Row(NamedTuple):
    """Row of a block, without its images."""

    number: int
    """Position of the row among all rows, from 0."""
    values: Values


class Blocks:
    """Blocks of an ingest.

    ``starts`` holds the number of the first row of each block, followed by the number of all rows.

    Args:
        folder: folder of the blocks, including those of earlier ingests; one process at a time
            works in it.
        rules: identifies everything that prepared rows depend on; rows of other rules are not
            reused.
    """

    def __init__(self, folder: Path, rules: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.part"):
            path.unlink()
        self._folder, self._rules = folder, {"rules": rules}
        self._earlier = sorted(int(path.name[5:]) for path in folder.glob("rows-*"))
        numbers = (int(path.name.partition("-")[2]) for path in folder.glob("*-*"))
        self._first = max(numbers, default=-1) + 1
        self._read = functools.lru_cache(_MAX_OPEN)(_read)
        self.starts = [0]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def table(self, block: int) -> pa.Table:
        """Return the rows of a block, as :data:`SCHEMA`."""
        return self._read(self._file("rows", self._first + block))

    def _file(self, kind: Literal["rows", "images"], number: int) -> Path:
        return self._folder / f"{kind}-{number:08d}"

    def find(self, rows: Sequence[NumberedRow]) -> list[tuple[bytes, Values | None]]:
        """Return the digest of each row of a source, and its values if it was prepared before."""
        digests = [digest_of(row) for _, row in rows]
        earlier, places = self._prior
        wanted = np.array(digests, "S16")
        positions = np.searchsorted(earlier, wanted).clip(max=len(earlier) - 1)
        is_known = (earlier[positions] == wanted).tolist()
        found = zip(rows, is_known, places[positions].tolist(), strict=True)
        values = [
            self._earlier_values(line, row, place) if known and isinstance(row, Record) else None
            for (line, row), known, place in found
        ]
        return list(zip(digests, values, strict=True))

    def _earlier_values(self, line: int, row: Record, place: int) -> Values:
        """Return the values of an earlier row with the line, key and ids that it has now."""
        block, position = divmod(place, _MAX_ROWS)
        [values] = self._read(self._file("rows", block)).slice(position, 1).to_pylist()
        values |= {"line": line, "source": row.source}
        if values["reason"] is None:
            values |= {"key": row.key, "split": row.split, "image_id": row.image_id}
        return dict(values)

    @functools.cached_property
    def _prior(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """Return the sorted digests of the earlier rows under these rules, and their places."""
        digests, places = [np.array([b""], "S16")], [np.array([-1])]  # a digest that no row has
        for number in self._earlier:
            block = self._read(self._file("rows", number))
            if block.schema.metadata[b"rules"].decode() == self._rules["rules"]:
                digests.append(digests_of(block["digest"]))
                places.append(number * _MAX_ROWS + np.arange(block.num_rows))
        distinct, first = np.unique(np.concatenate(digests), return_index=True)
        return distinct, np.concatenate(places)[first]

    def write(
        self, rows: Iterable[Prepared | Rejection | Values], digests: Sequence[bytes] = ()
    ) -> None:
        """Append a block of rows, of which earlier ones are given by their values."""
        number = self._first + len(self)
        images: list[Sequence[bytes]] = []
        values: list[Values] = []
        for row, digest in itertools.zip_longest(rows, digests):
            if isinstance(row, Prepared):
                # Captions of one image often follow each other; it is stored once.
                if not images or images[-1] != row.record.images:
                    images.append(row.record.images)
                place = {"images": number, "position": len(images) - 1}
                values.append({**_values(row), **place, "digest": digest})
            elif isinstance(row, Rejection):
                values.append({**_values(row), "digest": digest})
            else:
                values.append(row)
        if images:
            _write(self._file("images", number), pa.table([images], schema=_IMAGES))
        table = pa.Table.from_pylist(values, SCHEMA)
        _write(self._file("rows", number), table.replace_schema_metadata(self._rules))
        self.starts.append(self.starts[-1] + table.num_rows)

    def finish(self) -> None:
        """End an ingest: remove the parts of earlier ingests that it did not need."""
        for number in self._earlier:
            self._file("rows", number).unlink()
        tables = map(self.table, range(len(self)))
        needed = {number for table in tables for number in table["images"].unique().to_pylist()}
        for path in self._folder.glob("images-*"):
            if int(path.name.partition("-")[2]) not in needed:
                path.unlink()

    def rows(self, dropped: Container[int] = (), *, kept: bool) -> Iterator[Row]:
        """Yield the rows that are kept, or the others, in order.

        Rows are kept if they are neither rejected nor in ``dropped``, by number.
        """
        for block in range(len(self)):
            table, start = self.table(block), self.starts[block]
            numbers = range(start, start + table.num_rows)
            is_kept = np.array([number not in dropped for number in numbers], bool)
            is_kept &= table["reason"].is_null().to_numpy()
            positions = np.flatnonzero(is_kept == kept)
            values = table.take(positions).to_pylist()
            yield from map(Row, (start + positions).tolist(), values)

    def records(
        self, dropped: Container[int] = (), first: NDArray[np.int64] | None = None
    ) -> Iterator[Record]:
        """Yield the records of the rows that are kept, as in :meth:`rows`.

        ``first`` is as in :class:`albef.ingest.duplicates.Comparison`; None merges no rows.
        """
        first = np.arange(self.starts[-1]) if first is None else first
        merged = np.flatnonzero(first != np.arange(len(first)))
        merged = merged[np.argsort(first[merged], kind="stable")]
        targets = first[merged]
        for row in self.rows(dropped, kept=True):
            if first[row.number] != row.number:
                continue
            start, end = np.searchsorted(targets, [row.number, row.number + 1])
            captions, meta = self._merge(row.values, merged[start:end].tolist())
            image, *more = self.images(row)
            fields = {name: row.values[name] for name in ("key", "image_id", "split", "source")}
            yield Record(image=image, captions=captions, meta=meta, more=tuple(more), **fields)

    def _merge(self, row: Values, others: Iterable[int]) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the captions of a row and of others by number, and the meta of the record."""
        meta = json.loads(row["meta"])
        captions, originals = row["captions"], meta.get(ORIGINAL, row["captions"])
        for number in others:
            own = self.at(number, "captions")
            captions = captions + own
            originals = originals + json.loads(self.at(number, "meta")).get(ORIGINAL, own)
        if originals != captions:
            meta[ORIGINAL] = originals
        return tuple(dict.fromkeys(captions)), meta

    def images(self, row: Row) -> list[bytes]:
        """Return the images of a row that is kept so far."""
        file = self._read(self._file("images", row.values["images"]))
        images: list[bytes] = file["images"][row.values["position"]].as_py()
        return images

    def at(self, number: int, column: str) -> Any:
        """Return a value of the row with that number."""
        block = bisect_right(self.starts, number) - 1
        return self.table(block)[column][number - self.starts[block]].as_py()


def digest_of(row: Record | Rejection) -> bytes:
    """Return the first 16 bytes of the SHA-256 of a row's content, wherever the row is."""
    digest = hashlib.sha256()
    if isinstance(row, Rejection):
        fields: tuple[object, ...] = (row.key, row.reason, row.detail)
    else:
        for image in row.images:
            digest.update(len(image).to_bytes(8, "big"))
            digest.update(image)
        invalid_key = "" if KEY.fullmatch(row.key) else row.key  # It rejects the row.
        fields = (name_of(row), invalid_key, row.split, row.captions, row.meta)
    digest.update(repr(fields).encode(errors="backslashreplace"))
    return digest.digest()[:16]


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as part, pa.ipc.new_file(str(part), table.schema) as file:
        file.write_table(table)


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def digests_of(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Return binary values of 16 bytes as an array that shares their memory."""
    values = column.combine_chunks()
    buffer = values.buffers()[1] if len(values) else b""
    return np.frombuffer(buffer, "S16")[values.offset : values.offset + len(values)]


def _values(row: Prepared | Rejection) -> Values:
    if isinstance(row, Rejection):
        return {
            "source": row.source,
            "line": row.line,
            "name": escape_surrogates(row.key[:_MAX_CHARS]),
            "reason": str(row.reason),
            "detail": escape_surrogates(row.detail[:_MAX_CHARS]),
            "thumbnail": row.thumbnail,
        }
    record = row.record
    return {
        "source": record.source,
        "line": row.line,
        "name": escape_surrogates(row.name[:_MAX_CHARS]),
        "key": record.key,
        "split": record.split,
        "image_id": record.image_id,
        "captions": record.captions,
        "meta": json.dumps(record.meta, sort_keys=True, ensure_ascii=False),
        "digests": [image.digest for image in row.fingerprints],
        "phashes": [image.phash for image in row.fingerprints],
    }
