"""Changes of a dataset: rows by key and content."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_CONTENT = ("split", "digest", "more", "captions", "meta")
_ROWS = 1 << 16  # rows hashed at a time, since some datasets have millions


@dataclass(frozen=True)
class SplitRows:
    """Row counts of a split; rows are compared by key."""

    split: str
    before: int
    after: int
    added: int
    removed: int
    changed: int


def contents(index: pa.Table) -> "pd.Series[Any]":
    """Return a hash of the content of each record (images, captions, meta), by key."""
    columns = [name for name in _CONTENT if name in index.column_names]
    hashes = [np.empty(0, np.uint64)]
    for rows in index.select(columns).to_batches(max_chunksize=_ROWS):
        texts = [repr(_content(row)) for row in rows.to_pylist()]
        hashes.append(pd.util.hash_array(np.array(texts, object), categorize=False))
    return pd.Series(np.concatenate(hashes), index=index["key"].to_pandas())


def _content(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with only the digests of its further images; their places may change."""
    return row | {"more": [image["digest"] for image in row.get("more") or ()]}


def compare(before: pa.Table, after: pa.Table) -> Iterator[SplitRows]:
    """Yield the differences between two indexes, by split."""
    splits = pa.concat_tables([before.select(["split"]), after.select(["split"])])["split"]
    for split in splits.unique().to_pylist():
        old, new = (contents(t.filter(pc.equal(t["split"], split))) for t in (before, after))
        common = old.index.intersection(new.index)
        changed, matched = int((old[common] != new[common]).sum()), len(common)
        yield SplitRows(split, len(old), len(new), len(new) - matched, len(old) - matched, changed)
