"""Rows on their way from sources to shards: prepared, on disk, in blocks that are whole or absent.

A block is two Arrow files that are read in place: ``images-N`` with the pictures of each row, and
``rows-N`` with all else, which is written last. Blocks hold as many rows as they hold, so that a
folder of them tells by itself where to go on.
"""

import functools
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import feather

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal
from albef.ingest.cleaning import writable
from albef.ingest.prepare import Prepared
from albef.io import atomic

EXAMPLES = 12
"""Rows of each source and reason that are kept to be looked at."""
SCHEMA = pa.schema({
    "source": pa.string(), "line": pa.int64(), "name": pa.string(), "reason": pa.string(),
    "detail": pa.string(), "key": pa.string(), "split": pa.string(), "image_id": pa.int64(),
    "captions": pa.list_(pa.string()), "meta": pa.string(), "digests": pa.list_(pa.binary(16)),
    "looks": pa.list_(pa.uint64()), "picture": pa.binary(),
})  # fmt: skip
"""Columns of a block's rows; ``reason`` is null where a row is kept so far, and ``picture`` a small
one of a row that is not."""
_IMAGES = pa.schema([("images", pa.list_(pa.large_binary()))])
_LONGEST = 8000  # letters of what names a row, and of what is said of it
_OPEN = 64  # blocks that are held open, of the last ones used


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a block holds it, without its pictures: its place among all rows, from 0, why it is
    set aside, if it is, and its columns.
    """

    number: int
    refusal: Refusal | None
    values: dict[str, Any]

    def record(self, images: Sequence[bytes]) -> Record:
        """The record that a row with these pictures is."""
        names = ("key", "image_id", "split", "source")
        key, image_id, split, source = (self.values[name] for name in names)
        captions, meta = tuple(self.values["captions"]), json.loads(self.values["meta"])
        return Record(key, images[0], captions, image_id, split, source, meta, tuple(images[1:]))


class Blocks:
    """The blocks of a folder; ``starts`` are the numbers of their first rows, and that of all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.table = functools.lru_cache(_OPEN)(lambda block: _read(self._rows(block)))
        self.starts = [0]
        while self._rows(len(self)).exists():
            self.starts.append(self.starts[-1] + self.table(len(self)).num_rows)
        for path in folder.glob("*.part"):
            path.unlink()

    def __len__(self) -> int:
        return len(self.starts) - 1

    def _rows(self, block: int) -> Path:
        return self._folder / f"rows-{block:06d}"

    def _images(self, block: int) -> Path:
        return self._folder / f"images-{block:06d}"

    def write(self, rows: Sequence[Prepared | Refusal], digest: str) -> None:
        """Append a block; ``digest`` tells later whether a source still gives the same rows."""
        block = len(self)
        images = [row.record.images if isinstance(row, Prepared) else None for row in rows]
        _write(self._images(block), pa.table([images], schema=_IMAGES))
        seen: Counter[tuple[str, str]] = Counter()
        values = [_values(row, seen) for row in rows]
        table = pa.Table.from_pylist(values, SCHEMA).replace_schema_metadata({"digest": digest})
        _write(self._rows(block), table)
        self.starts.append(self.starts[-1] + len(rows))

    def digest(self, block: int) -> str:
        """What :meth:`write` was told of a block."""
        digest: bytes = self.table(block).schema.metadata[b"digest"]
        return digest.decode()

    def cut(self, block: int) -> None:
        """Forget a block and all after it."""
        for each in range(block, len(self)):
            self._rows(each).unlink()
            self.drop_images(each)
        del self.starts[block + 1 :]
        self.table.cache_clear()

    def rows(self, block: int) -> Iterator[Row]:
        """The rows of a block, in order."""
        for number, values in enumerate(self.table(block).to_pylist(), self.starts[block]):
            refusal = None
            if values["reason"] is not None:
                where = values["source"], values["line"], values["name"]
                why = Reason(values["reason"]), values["detail"], values["picture"]
                refusal = Refusal(*where, *why)
            yield Row(number, refusal, values)

    def records(self, block: int) -> Iterator[tuple[Row, Record | None]]:
        """The rows of a block with their records, where they are kept so far."""
        images = _read(self._images(block))["images"]
        for row, of_row in zip(self.rows(block), images, strict=True):
            yield row, None if row.refusal else row.record(of_row.as_py())

    def image(self, number: int) -> bytes:
        """The first picture of the row with that number, which is kept so far."""
        block, place = self._place(number)
        image: bytes = _read(self._images(block))["images"][place][0].as_py()
        return image

    def has_images(self, block: int) -> bool:
        """Whether the pictures of a block are still there."""
        return self._images(block).exists()

    def drop_images(self, block: int) -> None:
        """Free the room of a block's pictures, once they are in shards."""
        self._images(block).unlink(missing_ok=True)

    def at(self, number: int, column: str) -> Any:
        """A value of the row with that number."""
        block, place = self._place(number)
        return self.table(block)[column][place].as_py()

    def _place(self, number: int) -> tuple[int, int]:
        block = bisect_right(self.starts, number) - 1
        return block, number - self.starts[block]


def _write(path: Path, table: pa.Table) -> None:
    with atomic(path) as part:
        feather.write_feather(table, str(part), compression="uncompressed")


def _read(path: Path) -> pa.Table:
    return feather.read_table(str(path), memory_map=True)


def _values(row: Prepared | Refusal, seen: Counter[tuple[str, str]]) -> dict[str, Any]:
    """The columns of a row; a few of those with equal source and reason keep their picture."""
    if isinstance(row, Refusal):
        seen[row.source, row.reason] += 1
        return {
            "source": row.source,
            "line": row.line,
            "name": writable(row.key[:_LONGEST]),
            "reason": str(row.reason),
            "detail": writable(row.detail[:_LONGEST]),
            "picture": row.picture if seen[row.source, row.reason] <= EXAMPLES else b"",
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
    }
