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
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import feather

from albef.data.record import Record
from albef.data.rejection import Rejection
from albef.ingest.cleaning import escape_surrogates
from albef.ingest.pool import NumberedRow
from albef.ingest.prepare import KEY, Prepared, name_of
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
_PRIOR = pa.schema({
    "digest": pa.binary(16), "images": pa.int64(), "block": pa.int64(), "row": pa.int64(),
})  # fmt: skip
_MAX_CHARS = 8000  # of a row's name, and of its detail
_MAX_OPEN = 64  # files that stay open, the most recently used ones


class Row(NamedTuple):
    """Row of a block, without its images."""

    number: int
    """Position of the row among all rows, from 0."""
    values: dict[str, Any]
    """Columns of the row by name."""


@dataclass(frozen=True)
class Batch:
    """Rows of a source that become a block, some of which were prepared before."""

    digests: list[bytes]
    """Digests of all rows, in order."""
    is_known: NDArray[np.bool_]
    """(N,) true for a row that was prepared before."""
    known: pa.Table
    """Rows that were prepared before, as :data:`SCHEMA`, with current lines, keys and ids."""

    @property
    def missing(self) -> int:
        """Return the number of rows to be prepared."""
        return int((~self.is_known).sum())


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

    def batch(self, rows: list[NumberedRow]) -> tuple[Batch, list[NumberedRow]]:
        """Return a batch with the known ones of a source's rows, and the rows to be prepared."""
        digests = [digest_of(row) for _, row in rows]
        is_known = np.array([isinstance(row, Record) for _, row in rows], bool)
        earlier, prior = self._prior
        wanted = np.array(digests, "S16")
        positions = np.searchsorted(earlier, wanted).clip(max=max(0, len(earlier) - 1))
        is_known &= earlier[positions] == wanted if len(earlier) else False
        known = self._gather(prior.take(positions[is_known]))
        current = [rows[i] for i in np.flatnonzero(is_known)]
        new = [rows[i] for i in np.flatnonzero(~is_known)]
        return Batch(digests, is_known, _updated(known, current)), new

    def _gather(self, prior: pa.Table) -> pa.Table:
        """Return the rows of earlier blocks that some rows of :data:`_PRIOR` name, in order."""
        blocks, rows = prior["block"].to_numpy(), prior["row"].to_numpy()
        pieces = [SCHEMA.empty_table()]
        for number in np.unique(blocks):
            block = self._read(self._file("rows", number)).replace_schema_metadata()
            pieces.append(block.take(rows[blocks == number]))
        by_block = np.argsort(blocks, kind="stable")
        return pa.concat_tables(pieces).take(np.argsort(by_block))

    @functools.cached_property
    def _prior(self) -> tuple[NDArray[np.bytes_], pa.Table]:
        """Return the earlier rows under these rules: sorted digests, and :data:`_PRIOR` of each.

        Rows are left out if most images of their file are not needed any more, so that such files
        can be removed.
        """
        tables = [_PRIOR.empty_table()]
        for number in self._earlier:
            block = self._read(self._file("rows", number))
            if block.schema.metadata[b"rules"].decode() == self._rules["rules"]:
                rows = block.select(["digest", "images"]).replace_schema_metadata()
                rows = rows.append_column("block", pa.array([number] * len(rows), pa.int64()))
                tables.append(rows.append_column("row", pa.array(range(len(rows)), pa.int64())))
        prior = pa.concat_tables(tables)
        counts = prior["images"].value_counts().to_pylist()
        usable = [of["values"] for of in counts if self._is_usable(of["values"], of["counts"])]
        prior = prior.filter(pc.is_in(prior["images"], pa.array(usable, pa.int64())))
        digests, first = np.unique(digests_of(prior["digest"]), return_index=True)
        return digests, prior.take(first)

    def _is_usable(self, images: int | None, rows: int) -> bool:
        """Return whether a file of images, if any, exists and mostly belongs to ``rows`` rows."""
        if images is None:
            return True
        path = self._file("images", images)
        return path.exists() and 2 * rows >= self._read(path).num_rows

    def write(self, rows: Sequence[Prepared | Rejection], batch: Batch | None = None) -> None:
        """Append a block of prepared rows, together with the known rows of their batch."""
        number = self._first + len(self)
        images = [row.record.images for row in rows if isinstance(row, Prepared)]
        if images:
            _write(self._file("images", number), pa.table([images], schema=_IMAGES))
        positions = itertools.count()
        values = [_values(row, number, positions) for row in rows]
        table = pa.Table.from_pylist(values, SCHEMA)
        if batch is not None:
            at = np.empty(len(batch.digests), np.int64)
            at[~batch.is_known] = np.arange(table.num_rows)
            at[batch.is_known] = table.num_rows + np.arange(batch.known.num_rows)
            table = pa.concat_tables([table, batch.known]).take(at).combine_chunks()
            table = _with_column(table, "digest", batch.digests)
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

    def records(self, dropped: Container[int] = ()) -> Iterator[Record]:
        """Yield the records of the rows that are kept, as in :meth:`rows`."""
        for row in self.rows(dropped, kept=True):
            image, *more = self.images(row)
            fields = {name: row.values[name] for name in ("key", "image_id", "split", "source")}
            captions, meta = tuple(row.values["captions"]), json.loads(row.values["meta"])
            yield Record(image=image, captions=captions, meta=meta, more=tuple(more), **fields)

    def images(self, row: Row) -> list[bytes]:
        """Return the images of a row that is kept so far."""
        file = self._read(self._file("images", row.values["images"]))
        images: list[bytes] = file["images"][row.values["position"]].as_py()
        return images

    def at(self, number: int, column: str) -> Any:
        """Return a value of the row with that number."""
        block = bisect_right(self.starts, number) - 1
        return self.table(block)[column][number - self.starts[block]].as_py()


def hash_text(text: str) -> int:
    """Return a 64-bit hash of a text, never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") | 1


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


def _updated(table: pa.Table, rows: Sequence[NumberedRow]) -> pa.Table:
    """Return known rows with their current line, source, key, split and image id."""
    table = _with_column(table, "line", [line for line, _ in rows])
    table = _with_column(table, "source", [row.source for _, row in rows])
    is_kept = table["reason"].is_null().to_pylist()
    for name in ("key", "split", "image_id"):  # Rejected rows have none of these.
        pairs = zip(rows, is_kept, strict=True)
        values = [getattr(row, name) if kept else None for (_, row), kept in pairs]
        table = _with_column(table, name, values)
    return table


def _with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = SCHEMA.field(name)
    return table.set_column(SCHEMA.get_field_index(name), field, pa.array(values, field.type))


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as part:
        feather.write_feather(table, str(part), compression="uncompressed")


def _read(path: Path) -> pa.Table:
    return feather.read_table(str(path), memory_map=True)


def digests_of(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Return binary values of 16 bytes as an array that shares their memory."""
    values = column.combine_chunks()
    buffer = values.buffers()[1] if len(values) else b""
    return np.frombuffer(buffer, "S16")[values.offset : values.offset + len(values)]


def _values(row: Prepared | Rejection, images: int, positions: Iterator[int]) -> dict[str, Any]:
    """Return the columns of a row; images that are kept take the next position in their file."""
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
        "images": images,
        "position": next(positions),
    }
