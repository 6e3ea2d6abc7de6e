"""Rows on their way from sources to shards: prepared, on disk, in blocks that are whole or absent.

A block is two files: ``images-N`` with its pictures one after the other, and ``rows-N`` with all
else, an Arrow table that is read in place. The second is written last. Blocks hold as many rows as
they hold, so that a folder of them tells by itself where to go on.
"""

import functools
import json
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal
from albef.ingest.cleaning import writable
from albef.ingest.prepare import Prepared
from albef.ingest.quarantine import EXAMPLES

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("line", pa.int64()),
        ("name", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("image_id", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("meta", pa.string()),
        ("sizes", pa.list_(pa.int32())),
        ("digests", pa.list_(pa.binary(16))),
        ("looks", pa.list_(pa.uint64())),
        ("picture", pa.binary()),
    ]
)
"""Columns of a block's rows; ``reason`` is null where a row is kept so far. ``sizes`` are the bytes
of its pictures, which follow each other in the order of rows; ``picture`` is a small one of a row
that is not kept."""
_OPEN = 64  # blocks that are held open, of the last ones used


@dataclass(frozen=True, slots=True)
class Row:
    """A row as a block holds it, without its pictures.

    Attributes:
        number: its place among all rows, from 0.
        refusal: where it is set aside.
        values: of the columns, where it is kept.
    """

    number: int
    refusal: Refusal | None
    values: dict[str, Any]


class Stored(NamedTuple):
    """A kept row with its pictures."""

    row: Row
    images: tuple[bytes, ...]

    def record(self) -> Record:
        """The record that it is."""
        values = self.row.values
        return Record(
            key=values["key"],
            image=self.images[0],
            captions=tuple(values["captions"]),
            image_id=values["image_id"],
            split=values["split"],
            source=values["source"],
            meta=json.loads(values["meta"]),
            more=self.images[1:],
        )


class Blocks:
    """The blocks of a folder.

    Attributes:
        starts: the number of the first row of each, and last the number of all rows.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._table = functools.lru_cache(_OPEN)(self._read)
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
        images = self._images(block).with_suffix(".part")
        with images.open("wb") as file:
            for row in rows:
                if isinstance(row, Prepared):
                    file.writelines(row.record.images)
        images.replace(self._images(block))
        table = pa.Table.from_pylist([_values(row) for row in _lighter(rows)], SCHEMA)
        table = table.replace_schema_metadata({"digest": digest})
        part = self._rows(block).with_suffix(".part")
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        part.replace(self._rows(block))
        self.starts.append(self.starts[-1] + len(rows))

    def table(self, block: int) -> pa.Table:
        """The rows of a block."""
        return self._table(block)

    def _read(self, block: int) -> pa.Table:
        with pa.memory_map(str(self._rows(block))) as source:
            return pa.ipc.open_file(source).read_all()

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
        self._table.cache_clear()

    def rows(self, block: int) -> Iterator[Row]:
        """The rows of a block, in order."""
        for number, values in enumerate(self.table(block).to_pylist(), self.starts[block]):
            refusal = None
            if values["reason"] is not None:
                refusal = Refusal(
                    values["source"],
                    values["line"],
                    values["name"],
                    Reason(values["reason"]),
                    values["detail"],
                    values["picture"],
                )
            yield Row(number, refusal, values)

    def stored(self, block: int) -> Iterator[tuple[Row, Stored | None]]:
        """The rows of a block with their pictures, where they are kept."""
        with self._images(block).open("rb") as file:
            for row in self.rows(block):
                images = tuple(file.read(size) for size in row.values["sizes"] or ())
                yield row, None if row.refusal else Stored(row, images)

    def image(self, number: int) -> bytes:
        """The first picture of the row with that number, which is kept so far."""
        block = bisect_right(self.starts, number) - 1
        place = number - self.starts[block]
        sizes = self.table(block)["sizes"][: place + 1].to_pylist()
        with self._images(block).open("rb") as file:
            file.seek(sum(sum(own) for own in sizes[:-1] if own))
            return file.read(sizes[-1][0])

    def has_images(self, block: int) -> bool:
        """Whether the pictures of a block are still there."""
        return self._images(block).exists()

    def drop_images(self, block: int) -> None:
        """Free the room of a block's pictures, once they are in shards."""
        self._images(block).unlink(missing_ok=True)

    def array(self, kind: str, count: int) -> NDArray[Any]:
        """An array of zeros on disk: it takes no memory of its own, and goes with whoever holds it.

        Args:
            kind: NumPy's name of its values.
            count: how many.
        """
        if not count:
            return np.zeros(0, kind)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return np.asarray(np.memmap(file, kind, "w+", shape=(count,)))

    def at(self, number: int, column: str) -> Any:
        """A value of the row with that number."""
        block = bisect_right(self.starts, number) - 1
        return self.table(block)[column][number - self.starts[block]].as_py()


def _lighter(rows: Sequence[Prepared | Refusal]) -> Iterator[Prepared | Refusal]:
    """The same rows; of those with equal source and reason a few keep their small picture."""
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if isinstance(row, Refusal):
            seen[row.source, row.reason] += 1
            if row.picture and seen[row.source, row.reason] > EXAMPLES:
                row = replace(row, picture=b"")
        yield row


def _values(row: Prepared | Refusal) -> dict[str, Any]:
    if isinstance(row, Refusal):
        return {
            "source": row.source,
            "line": row.line,
            "name": writable(row.key),
            "reason": str(row.reason),
            "detail": writable(row.detail),
            "picture": row.picture,
        }
    record = row.record
    return {
        "source": record.source,
        "line": row.line,
        "name": writable(row.name),
        "key": record.key,
        "split": record.split,
        "image_id": record.image_id,
        "captions": record.captions,
        "meta": json.dumps(record.meta, sort_keys=True, ensure_ascii=False),
        "sizes": [len(image) for image in record.images],
        "digests": [one.digest for one in row.prints],
        "looks": [one.look for one in row.prints],
    }
