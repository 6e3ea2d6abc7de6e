"""The quarantine of a data set: the rows that were set aside, each with its reason."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.refusal import Refusal
from albef.ingest.cleaning import writable

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("line", pa.int64()),
        ("key", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Columns of quarantine.parquet: the fields of :class:`albef.data.refusal.Refusal`."""
EXAMPLES = 12
"""Rows of each source and reason that are kept to be looked at."""
EXAMPLE = pa.schema(
    [
        *SCHEMA,
        ("captions", pa.list_(pa.string())),
        ("picture", pa.binary()),
        ("of", pa.string()),
        ("of_dataset", pa.string()),
        ("distance", pa.int32()),
    ]
)
"""Columns of examples.parquet: of the first rows of each source and reason what they say, a small
JPEG where their picture can be shown, and, of one that repeats another, the key of that one, its
data set where that is another one, and the bits of the perceptual hash between them."""
_ROWS = 10_000  # held before they are written


class Quarantine:
    """Writes ``quarantine.parquet``, row by row, and beside it ``examples.parquet``.

    Args:
        folder: of both.

    Attributes:
        reasons: how many rows there are, by source and reason.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.reasons: Counter[tuple[str, str]] = Counter()
        self._folder = folder
        path = folder / "quarantine.parquet"
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, object]] = []
        self._examples: list[dict[str, object]] = []

    def add(self, refusal: Refusal, more: Callable[[], dict[str, object]] = dict) -> None:
        """Set a row aside.

        Args:
            refusal: the row.
            more: gives further columns of :data:`EXAMPLE`; asked where the row is shown.
        """
        row = dataclasses.asdict(refusal)
        row |= {name: writable(row[name]) for name in ("key", "detail")}
        self._rows.append({name: row[name] for name in SCHEMA.names})
        if self.reasons[refusal.source, refusal.reason] < EXAMPLES:
            self._examples.append({**row, "picture": refusal.picture or None, **more()})
        self.reasons[refusal.source, refusal.reason] += 1
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()
        shown = pa.Table.from_pylist(self._examples, EXAMPLE)
        pq.write_table(shown, self._folder / "examples.parquet", compression="zstd")
