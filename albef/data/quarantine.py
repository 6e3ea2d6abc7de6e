"""The quarantine of a data set: the rows that were set aside, each with its reason."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from albef.data.cleaning import writable
from albef.data.refusal import Refusal

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
_ROWS = 10_000  # held before they are written


class Quarantine:
    """Writes ``quarantine.parquet``, row by row.

    Attributes:
        reasons: how many rows there are, by source and reason.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.reasons: Counter[tuple[str, str]] = Counter()
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict[str, object]] = []

    def add(self, refusal: Refusal) -> None:
        """Set a row aside."""
        self.reasons[refusal.source, refusal.reason] += 1
        row = dataclasses.asdict(refusal)
        self._rows.append(row | {name: writable(row[name]) for name in ("key", "detail")})
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
