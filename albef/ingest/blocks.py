"""Rows on their way from sources to shards: prepared, on disk, in blocks that are whole or absent.

A block is an Arrow file ``rows-N`` with all that is known of its rows but their pictures, which lie
in files ``images-N``; both are read in place. A folder keeps the blocks of the ingest before, and
of one that was ended: a row that a source gives again is taken from there, wherever it stands now,
and only what is new is prepared.
"""

import functools
import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import feather

from albef.data.record import Record
from albef.data.refusal import Refusal
from albef.ingest.cleaning import writable
from albef.ingest.pool import Given
from albef.ingest.prepare import Prepared, name_of
from albef.io import atomic, read_json, write_json

EXAMPLES = 12
"""Rows of each source and reason that are kept to be looked at."""
SCHEMA = pa.schema({
    "source": pa.string(), "line": pa.int64(), "name": pa.string(), "reason": pa.string(),
    "detail": pa.string(), "key": pa.string(), "split": pa.string(), "image_id": pa.int64(),
    "captions": pa.list_(pa.string()), "meta": pa.string(), "digests": pa.list_(pa.binary(16)),
    "looks": pa.list_(pa.uint64()), "picture": pa.binary(), "digest": pa.binary(16),
    "images": pa.int64(), "place": pa.int64(),
})  # fmt: skip
"""Columns of a block's rows; ``reason`` is null where a row is kept so far, and ``picture`` a small
one of a row that is not. ``digest`` is that of the row as its source gave it; ``images`` is the
number of the file with its pictures, and ``place`` where they are in it."""
_IMAGES = pa.schema([("images", pa.list_(pa.large_binary()))])
_LONGEST = 8000  # letters of what names a row, and of what is said of it
_OPEN = 64  # files that are held open, of the last ones used
_LAST_INGEST = "made.json"  # the numbers of the blocks of the last ingest that came to its end


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a block holds it, without its pictures: its place among all rows, from 0, and its
    columns.
    """

    number: int
    values: dict[str, Any]

    def record(self, images: Sequence[bytes]) -> Record:
        """The record that a row with these pictures is."""
        names = ("key", "image_id", "split", "source")
        key, image_id, split, source = (self.values[name] for name in names)
        captions, meta = tuple(self.values["captions"]), json.loads(self.values["meta"])
        return Record(key, images[0], captions, image_id, split, source, meta, tuple(images[1:]))


class Batch(NamedTuple):
    """Rows of a source that become a block: those that are known already, and the others."""

    given: list[Given]
    """The rows to prepare."""
    digests: list[bytes]
    """Of all rows."""
    existing_rows: pa.Table
    """The known rows, as they stand now."""
    at: list[int]
    """The places of the rows to prepare."""


class Blocks:
    """The blocks of an ingest; ``starts`` are the numbers of their first rows, and that of all.

    Args:
        folder: of the blocks, also of earlier ingests; one process at a time works in it.
        rules: names all that prepared rows depend on; rows of other rules are not taken up.
    """

    def __init__(self, folder: Path, rules: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.part"):
            path.unlink()
        self._folder, self._rules = folder, {"rules": rules}
        self._earlier = sorted(int(path.name[5:]) for path in folder.glob("rows-*"))
        numbers = (int(path.name.partition("-")[2]) for path in folder.glob("*-*"))
        self._first = max(numbers, default=-1) + 1
        self._read = functools.lru_cache(_OPEN)(_read)
        self.starts = [0]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def table(self, block: int) -> pa.Table:
        """The rows of a block, as :data:`SCHEMA`."""
        return self._read(self._rows(self._first + block))

    def _rows(self, number: int) -> Path:
        return self._folder / f"rows-{number:08d}"

    def _images(self, number: int) -> Path:
        return self._folder / f"images-{number:08d}"

    def batch(self, rows: list[Given]) -> Batch:
        """Rows as a source gives them, told apart by whether they were prepared before."""
        digests = [digest_of(row) for _, row in rows]
        reusable, files, places = self._reusable
        is_reused = np.zeros(len(rows), bool)
        table = SCHEMA.empty_table()
        if len(reusable):
            digest_array = np.array(digests, "S16")
            at = np.searchsorted(reusable, digest_array).clip(max=len(reusable) - 1)
            is_record = [isinstance(row, Record) for _, row in rows]
            is_reused = (reusable[at] == digest_array) & is_record
            at = at[is_reused]
            pieces, order = [table], np.argsort(files[at], kind="stable")
            for number in np.unique(files[at]).tolist():
                block = self._read(self._rows(number))
                pieces.append(block.take(places[at[files[at] == number]]).replace_schema_metadata())
            table = pa.concat_tables(pieces).take(np.argsort(order))
            current = [(line, row) for (line, row), hit in zip(rows, is_reused, strict=True) if hit]
            table = _placed(table, current)
        new_positions = np.flatnonzero(~is_reused).tolist()
        return Batch([rows[i] for i in new_positions], digests, table, new_positions)

    @functools.cached_property
    def _reusable(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64], NDArray[np.int64]]:
        """Digests of earlier rows under these rules, in order; their files and places there.

        Rows whose pictures lie among many that nobody needs are not known, so that these go.
        """
        digests, images = [np.empty(0, "S16")], [np.empty(0, np.int64)]
        files, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number in self._earlier:
            table = self._read(self._rows(number))
            if table.schema.metadata[b"rules"].decode() == self._rules["rules"]:
                digests.append(self._digests(number).copy())
                images.append(table["images"].fill_null(-1).to_numpy())
                files.append(np.full(table.num_rows, number))
                places.append(np.arange(table.num_rows))
        image_files = np.concatenate(images)
        numbers, inverse, counts = np.unique(image_files, return_inverse=True, return_counts=True)
        fit = [self._usable(n, of) for n, of in zip(numbers.tolist(), counts.tolist(), strict=True)]
        candidates = np.flatnonzero(np.array(fit, bool)[inverse])
        unique, first = np.unique(np.concatenate(digests)[candidates], return_index=True)
        chosen = candidates[first]
        return unique, np.concatenate(files)[chosen], np.concatenate(places)[chosen]

    def _usable(self, number: int, row_count: int) -> bool:
        """Whether a file of pictures is there, and at least half of them are needed."""
        path = self._images(number)
        return number < 0 or (path.exists() and 2 * row_count >= self._read(path).num_rows)

    def write(self, rows: Sequence[Prepared | Refusal], batch: Batch | None = None) -> None:
        """Append a block of prepared rows, and of those of a batch that are known already."""
        number = self._first + len(self)
        pictures = [row.record.images for row in rows if isinstance(row, Prepared)]
        if pictures:
            _write(self._images(number), pa.table([pictures], schema=_IMAGES))
        positions = itertools.count()
        values = [_values(row, number, positions) for row in rows]
        table = pa.Table.from_pylist(values, SCHEMA)
        if batch is not None:
            existing = np.delete(np.arange(len(batch.digests)), batch.at)
            order = np.argsort(np.concatenate([batch.at, existing]).astype(np.int64))
            table = pa.concat_tables([table, batch.existing_rows]).take(order).combine_chunks()
            column = pa.array(batch.digests, pa.binary(16))
            table = table.set_column(SCHEMA.get_field_index("digest"), "digest", column)
        _write(self._rows(number), table.replace_schema_metadata(self._rules))
        self.starts.append(self.starts[-1] + table.num_rows)

    def finish(self) -> dict[str, int]:
        """End an ingest: forget what it did not need of earlier ones.

        Returns:
            How many rows are ``new``, ``changed`` (another row of that name stood there) and
            ``removed`` since the last ingest that came to its end; nothing where there was none.
        """
        latest = read_json(self._folder / _LAST_INGEST)
        numbers = range(self._first, self._first + len(self))
        previous = [n for n in self._earlier if latest and latest["first"] <= n < latest["end"]]
        changes = self._changes(previous, numbers) if previous else {}
        write_json(self._folder / _LAST_INGEST, {"first": numbers.start, "end": numbers.stop})
        for number in self._earlier:
            self._rows(number).unlink()
        tables = map(self.table, range(len(self)))
        needed = {number for table in tables for number in table["images"].unique().to_pylist()}
        for path in self._folder.glob("images-*"):
            if int(path.name.partition("-")[2]) not in needed:
                path.unlink()
        return changes

    def _changes(self, before: Sequence[int], now: Sequence[int]) -> dict[str, int]:
        """The rows of some files held against those of others, by digest and then by name."""
        digests = [[self._digests(number) for number in numbers] for numbers in (before, now)]
        earlier, later = map(np.concatenate, digests)
        names: list[NDArray[np.uint64]] = []
        for numbers, shared in ((before, np.isin(earlier, later)), (now, np.isin(later, earlier))):
            words: list[int] = []
            for number in numbers:
                table = self._read(self._rows(number)).select(["source", "name"])
                changed_only, shared = ~shared[: table.num_rows], shared[table.num_rows :]
                rows = table.filter(changed_only).to_pylist()
                words += [hash_word(f"{row['source']}/{row['name']}") for row in rows]
            names.append(np.array(words, np.uint64))
        removed, new = names
        changed = len(np.intersect1d(removed, new))
        return {"new": len(new) - changed, "changed": changed, "removed": len(removed) - changed}

    def _digests(self, number: int) -> NDArray[np.bytes_]:
        return digests_of(self._read(self._rows(number))["digest"])

    def digests(self, block: int) -> NDArray[np.bytes_]:
        """A digest for each row of a block, of all that its record's bytes depend on."""
        columns = self.table(block).select(["digest", "source", "key", "split", "image_id"])
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        rules = self._rules["rules"].encode()
        words = [hashlib.sha256(rules + repr(row).encode()).digest()[:16] for row in rows]
        return np.array(words, "S16")

    def kept(self, block: int, dropped: Container[int]) -> NDArray[np.bool_]:
        """Which rows of a block are neither refused nor dropped, by their numbers."""
        numbers = range(self.starts[block], self.starts[block + 1])
        is_kept = np.array([number not in dropped for number in numbers], bool)
        is_kept &= self.table(block)["reason"].is_null().to_numpy()
        return is_kept

    def rows(self, block: int, chosen: NDArray[np.bool_] | None = None) -> Iterator[Row]:
        """The rows of a block, in order, or those that are chosen."""
        table = self.table(block)
        places = np.arange(table.num_rows) if chosen is None else np.flatnonzero(chosen)
        for place, values in zip(places.tolist(), table.take(places).to_pylist(), strict=True):
            yield Row(self.starts[block] + place, values)

    def records(
        self, block: int, chosen: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Row, Record | None]]:
        """The rows of a block, as :meth:`rows`, with their records where they are kept so far."""
        for row in self.rows(block, chosen):
            is_kept = row.values["reason"] is None
            yield row, row.record(self.images(row)) if is_kept else None

    def images(self, row: Row) -> list[bytes]:
        """The pictures of a row that is kept so far."""
        file = self._read(self._images(row.values["images"]))
        images: list[bytes] = file["images"][row.values["place"]].as_py()
        return images

    def at(self, number: int, column: str) -> Any:
        """A value of the row with that number."""
        block = bisect_right(self.starts, number) - 1
        return self.table(block)[column][number - self.starts[block]].as_py()


def hash_word(text: str) -> int:
    """A text as a number of 64 bits, never 0, that tells it from others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") | 1


def digest_of(row: Record | Refusal) -> bytes:
    """The first 16 bytes of the SHA-256 of all that a row holds, wherever in its source it is."""
    digest = hashlib.sha256()
    if isinstance(row, Refusal):
        fields: tuple[object, ...] = (row.key, row.reason, row.detail)
    else:
        for image in row.images:
            digest.update(len(image).to_bytes(8, "big"))
            digest.update(image)
        fields = (*name_of(row), row.split, row.captions, row.meta)
    digest.update(repr(fields).encode(errors="backslashreplace"))
    return digest.digest()[:16]


def _placed(table: pa.Table, rows: Sequence[Given]) -> pa.Table:
    """Known rows as they stand now: of another line, and another key and number."""
    for name in ("source", "line", "key", "split", "image_id"):
        values = [line if name == "line" else getattr(row, name) for line, row in rows]
        column = pa.array(values, SCHEMA.field(name).type)
        if name not in ("source", "line"):  # what is refused has none
            column = pc.if_else(table["reason"].is_null(), column, None)
        table = table.set_column(SCHEMA.get_field_index(name), name, column)
    return table


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as part:
        feather.write_feather(table, str(part), compression="uncompressed")


def _read(path: Path) -> pa.Table:
    return feather.read_table(str(path), memory_map=True)


def digests_of(column: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Binary values of 16 bytes, in place."""
    values = column.combine_chunks()
    buffer = values.buffers()[1] if len(values) else b""
    return np.frombuffer(buffer, "S16")[values.offset : values.offset + len(values)]


def _values(row: Prepared | Refusal, images: int, positions: Iterator[int]) -> dict[str, Any]:
    """The columns of a row; its pictures, if they are kept, are the next in a file of them."""
    if isinstance(row, Refusal):
        return {
            "source": row.source,
            "line": row.line,
            "name": writable(row.key[:_LONGEST]),
            "reason": str(row.reason),
            "detail": writable(row.detail[:_LONGEST]),
            "picture": row.picture,
        }
    record = row.record
    return {
        "source": record.source,
        "line": row.line,
        "name": writable(row.name[:_LONGEST]),
        "key": record.key,
        "split": record.split,
        "image_id": record.image_id,
        "captions": record.captions,
        "meta": json.dumps(record.meta, sort_keys=True, ensure_ascii=False),
        "digests": [image.digest for image in row.fingerprints],
        "looks": [image.look for image in row.fingerprints],
        "images": images,
        "place": next(positions),
    }
