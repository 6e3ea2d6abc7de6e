"""Changes of a dataset: rows by key and content, and distributions of captions and images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Profile:
    """A distribution as (minimum, median, maximum), and the Kolmogorov-Smirnov distance."""

    name: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    distance: float


@dataclass(frozen=True)
class Drift:
    """Differences between two versions of a dataset."""

    rows: tuple[SplitRows, ...]
    profiles: tuple[Profile, ...]


def contents(index: pa.Table) -> "pd.Series[Any]":
    """Return a hash of the content of each record (images, captions, meta), by key."""
    hashes = [np.empty(0, np.uint64)]
    for rows in index.to_batches(max_chunksize=_ROWS):
        images = [rows["digest"], *([_more(rows["more"])] if "more" in rows.schema.names else [])]
        captions = pc.binary_join(rows["captions"], "\1")
        cells = pc.binary_join_element_wise(rows["split"], *images, captions, rows["meta"], "\0")
        values = np.asarray(cells.to_pylist(), dtype=object)
        hashes.append(pd.util.hash_array(values, categorize=False))
    return pd.Series(np.concatenate(hashes), index=index["key"].to_pandas())


def _more(lists: pa.ListArray) -> pa.Array:
    """Return the digests of the further images of each record, joined in one string."""
    digests = pc.struct_field(lists.flatten(), "digest")
    sizes = pc.list_value_length(lists).fill_null(0)
    offsets = np.concatenate([[0], np.cumsum(sizes.to_numpy())]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), digests), "\1")


def compare(before: pa.Table, after: pa.Table) -> Drift:
    """Return the differences between two indexes."""
    return Drift(tuple(_rows(before, after)), tuple(_profiles(before, after)))


def _rows(before: pa.Table, after: pa.Table) -> Iterable[SplitRows]:
    splits = pa.concat_tables([before.select(["split"]), after.select(["split"])])["split"]
    for split in splits.unique().to_pylist():
        old, new = (contents(t.filter(pc.equal(t["split"], split))) for t in (before, after))
        common = old.index.intersection(new.index)
        changed, matched = int((old[common] != new[common]).sum()), len(common)
        yield SplitRows(split, len(old), len(new), len(new) - matched, len(old) - matched, changed)


def _profiles(before: pa.Table, after: pa.Table) -> Iterable[Profile]:
    from scipy.stats import ecdf

    for name, column, measure in (
        ("words per caption", "caption_words", pc.list_flatten),
        ("captions per record", "captions", pc.list_value_length),
        ("width of an image in pixels", "width", pa.ChunkedArray.combine_chunks),
        ("height of an image in pixels", "height", pa.ChunkedArray.combine_chunks),
    ):
        old, new = (np.asarray(measure(t[column]), np.float64) for t in (before, after))
        if len(old) and len(new):
            # The statistic of ks_2samp, which divides by zero if two sides have one value each.
            values = np.union1d(old, new)
            below = [ecdf(side).cdf.evaluate(values) for side in (old, new)]
            distance = float(np.abs(below[0] - below[1]).max())
            yield Profile(name, _summary(old), _summary(new), distance)


def _summary(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values.min()), float(np.median(values)), float(values.max())
