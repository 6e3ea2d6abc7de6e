"""Data sets, their quarantine and their index, read from their products for their pages."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.refusal import Reason
from albef.data.shards import read_index
from albef.layout import Layout
from albef.report import counts, examples
from albef.report.dataset import Aside, DatasetPage, Intake, Pair, Row
from albef.report.origins import Dataset
from albef.report.pictures import SplitRecords, data_uri
from albef.report.results import Picture
from pipelines.stage import read_json

_COUNTED = 200_000
"""Records that histograms and most frequent values are taken of, at even steps."""
_LISTED = 10  # times the examples: contaminated rows that are named
_REPEATED = (Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
_Example = Mapping[str, Any]


def read_page(layout: Layout, data: Dataset, count: int) -> DatasetPage:
    """What the page of a data set shows.

    Args:
        layout: where products lie.
        data: what the main page shows of it.
        count: examples of each group.
    """
    folder, aside = layout.data(data.name), layout.quarantine(data.name)
    summary = read_json(aside / "summary.json") or {}
    shown = _table(aside / "examples.parquet")
    groups = pq.read_table(aside / "duplicates.parquet") if shown is not None else None
    found = shown.to_pylist() if shown is not None else []
    table = _spread(folder / "index.parquet") if data.splits else None
    return DatasetPage(
        data=data,
        intakes=tuple(Intake(name, own["rows"], own["kept"]) for name, own in summary.items()),
        repeated=_repeated(groups),
        pairs=tuple(_pairs(layout, data, found, groups, count)),
        contaminated=tuple(_contaminated(layout, data, found, count)),
        contamination=tuple(_contamination(aside, _LISTED * count)),
        asides=tuple(_asides(summary, found, count)),
        histograms=tuple(counts.histograms(table)) if table is not None else (),
        tallies=tuple(counts.tallies(table)) if table is not None else (),
        counted=table.num_rows if table is not None else 0,
    )


def _table(path: Path) -> pa.Table | None:
    return pq.read_table(path) if path.is_file() else None


def _spread(index: Path) -> pa.Table:
    """Rows of an index at even steps; memory depends on how many those are."""
    with pq.ParquetFile(index) as file:
        step = math.ceil(file.metadata.num_rows / _COUNTED)
        parts, start = [], 0
        for batch in file.iter_batches(columns=list(counts.COLUMNS)):
            places = range(-start % step, batch.num_rows, step)
            parts.append(batch.take(pa.array(places, pa.int64())))
            start += batch.num_rows
    return pa.Table.from_batches(parts)


def _repeated(groups: pa.Table | None) -> tuple[int, int]:
    if groups is None:
        return 0, 0
    exact = pc.sum(pc.equal(groups["kind"], "exact")).as_py() or 0
    return exact, groups.num_rows - exact


def _pairs(
    layout: Layout, data: Dataset, found: Iterable[_Example], groups: pa.Table | None, count: int
) -> Iterator[Pair]:
    """Some repeated pictures beside the first of their group, alike ones before equal ones."""
    rows = [row for row in found if row["reason"] in _REPEATED]
    rows += groups.filter(pc.invert(groups["dropped"])).to_pylist() if groups is not None else []
    near = [row for row in rows if not _exact(row)]
    chosen = [*examples.spread(near, count), *examples.spread([*filter(_exact, rows)], count)]
    keys = [row[name] for row in chosen for name in ("of", "key")]
    known = _pictures(layout.data(data.name), keys)
    for row in chosen:
        dropped = "picture" in row
        picture = _example(row) if dropped else known.get(row["key"], Picture(row["key"], ""))
        of = known.get(row["of"], Picture(row["of"], ""))
        yield Pair(picture, of, "", _exact(row), row["distance"], dropped)


def _exact(row: _Example) -> bool:
    return row.get("kind", row.get("reason")) in ("exact", Reason.DUPLICATE)


def _contaminated(
    layout: Layout, data: Dataset, found: Iterable[_Example], count: int
) -> Iterator[Pair]:
    rows = [row for row in found if row["reason"] == Reason.CONTAMINATION and row["of"]]
    chosen = examples.spread(rows, count)
    owners = dict.fromkeys(row["of_dataset"] or data.name for row in chosen)
    for owner in owners:
        own = [row for row in chosen if (row["of_dataset"] or data.name) == owner]
        known = _pictures(layout.data(owner), [row["of"] for row in own])
        for row in own:
            of = known.get(row["of"], Picture(row["of"], ""))
            yield Pair(_example(row), of, row["of_dataset"] or "", False, row["distance"], True)


def _contamination(aside: Path, most: int) -> Iterator[tuple[str, str]]:
    path = aside / "quarantine.parquet"
    if path.is_file():
        wanted = [("reason", "==", str(Reason.CONTAMINATION))]
        rows = pq.read_table(path, columns=["key", "detail"], filters=wanted).slice(0, most)
        yield from ((row["key"], row["detail"]) for row in rows.to_pylist())


def _asides(summary: Mapping[str, Any], found: Iterable[_Example], count: int) -> Iterator[Aside]:
    totals: dict[str, dict[str, int]] = {}
    for source, own in summary.items():
        for reason, number in own["set_aside"].items():
            totals.setdefault(reason, {})[source] = number
    rows: dict[str, list[Row]] = {}
    for one in found:
        picture = _example(one) if one["picture"] else None
        row = Row(one["source"], one["line"], one["key"], one["detail"], picture)
        rows.setdefault(one["reason"], []).append(row)
    for reason, own in sorted(totals.items(), key=lambda pair: (-sum(pair[1].values()), pair[0])):
        shown = examples.spread(rows.get(reason, []), count)
        yield Aside(reason, tuple(own.items()), tuple(shown))


def _example(row: _Example) -> Picture:
    uri = data_uri(row["picture"]) if row["picture"] else ""
    return Picture(row["key"], uri, tuple(row["captions"] or ()))


def _pictures(folder: Path, keys: Iterable[str]) -> dict[str, Picture]:
    """The pictures of a data set's records, by key; those that are there."""
    wanted = list(dict.fromkeys(keys))
    if not wanted or not (folder / "index.parquet").is_file():
        return {}
    index = read_index(folder, columns=["key", "split"])
    here = index.filter(pc.is_in(index["key"], pa.array(wanted, pa.string())))
    splits: dict[str, list[str]] = {}
    for row in here.to_pylist():
        splits.setdefault(row["split"], []).append(row["key"])
    found: dict[str, Picture] = {}
    for split, own in splits.items():
        records = SplitRecords(folder, split)
        found |= {key: picture for key in own if (picture := records.picture(key)) is not None}
        records.close()
    return found
