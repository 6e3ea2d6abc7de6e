"""Datasets in the report, and an HTML page for each. Texts of a dataset are not trusted."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.config import flatten
from albef.data.rejection import Reason
from albef.data.shards import describe, read_index
from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart
from albef.report.sections import curation, profile
from albef.report.sections.curation import Curation
from albef.report.sections.profile import Tally
from albef.report.thumbnails import SplitRecords, Thumbnail, data_uri, sample
from albef.report.wording import training_first

WORDS = {str(reason): reason.words for reason in Reason}
"""Short description of each reason for rejection."""
_RANGE = "{least:g} to {most:g}, median {median:g}"
_REPEATED = (Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    """The verdict on a dataset; ``current`` is true if the dataset has not changed since."""

    result: Mapping[str, Any]
    current: bool

    @property
    def statistics(self) -> dict[str, str]:
        """Return statistics of the dataset as text, without the number of captions."""
        texts = {}
        for name, value in self.result.get("statistics", {}).items():
            if isinstance(value, int | float) and name != "captions":
                texts[name] = f"{value:,}"
            elif isinstance(value, Mapping) and {"least", "median", "most"} <= set(value):
                text = "{least:g}" if value["least"] == value["most"] else _RANGE
                texts[name] = text.format(**value)
        return texts


@dataclass(frozen=True)
class Dataset:
    """A dataset, from its ``dataset.json``; ``note`` names what is missing."""

    name: str
    used_by: Sequence[str] = ()
    """Trainings and runs that read it."""
    note: str = ""
    digest: str = ""
    captions: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    """Number of records by split, training first."""
    samples: Mapping[str, Sequence[Thumbnail]] = field(default_factory=dict)
    """Sample images of each split."""
    sources: Sequence[tuple[str, Mapping[str, Any]]] = ()
    licences: Sequence[Mapping[str, str]] = ()
    """Licences of all its parts: ``what``, ``licence``, ``attribution``, ``url``."""
    validation: Validation | None = None
    filtered_from: str = ""
    """Dataset that it is filtered from, or ""."""


def read(layout: Layout, name: str, used_by: Sequence[str], count: int) -> Dataset:
    """Return a dataset, its verdict and ``count`` images of each split."""
    folder = layout.data(name)
    described = read_json(folder / "dataset.json")
    if described is None:
        note = f"This dataset has not been created yet: {folder} is missing."
        return Dataset(name, used_by, note)
    splits = {split: size for split, size in training_first(described["splits"]).items() if size}
    samples = {}
    for split in splits:
        records = SplitRecords(folder, split)
        samples[split] = [records.at(index) for index in sample(range(len(records)), count)]
        records.close()
    verdict = read_json(layout.validation(name) / "result.json")
    return Dataset(
        name,
        used_by,
        digest=described["digest"],
        captions=described["captions"],
        splits=splits,
        samples=samples,
        sources=[
            (str(source.get("name", "")), {k: v for k, v in flatten(source) if k != "name"})
            for source in described.get("sources", [])
        ],
        licences=described["licences"],
        validation=verdict and Validation(verdict, verdict["digest"] == described["digest"]),
        filtered_from=described.get("curated", {}).get("of", ""),
    )


@dataclass(frozen=True)
class Pair:
    """A training image next to an equal or similar one."""

    thumbnail: Thumbnail
    of: Thumbnail
    dataset: str
    """Dataset of the other image, if it is a different one."""
    exact: bool
    distance: int | None
    """Bits of 64 in which their perceptual hashes differ; None if they were not hashed."""
    dropped: bool


@dataclass(frozen=True)
class Rejected:
    """Rows rejected for one reason: the number by source, and the first rows with their images."""

    reason: str
    sources: Mapping[str, int]
    rows: Sequence[tuple[_Row, Thumbnail | None]]

    @property
    def count(self) -> int:
        """Return the number of rejected rows."""
        return sum(self.sources.values())


@dataclass(frozen=True)
class DatasetPage:
    """Content of the page of a dataset."""

    data: Dataset
    intakes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """``rows``, ``kept`` and ``merged`` of each source."""
    repeated: tuple[int, int] = (0, 0)
    """Number of training images that repeat an earlier one: equal files, and near-duplicates."""
    pairs: Sequence[Pair] = ()
    contaminated: Sequence[Pair] = ()
    """Some training images that are also evaluated on."""
    rejected: Sequence[Rejected] = ()
    """Rejected rows by reason, most frequent first."""
    histograms: Sequence[Chart] = ()
    tallies: Sequence[Tally] = ()
    failing: Sequence[tuple[str, Sequence[tuple[str, Thumbnail]]]] = ()
    """Each failed expectation with its first failing rows: value and origin, and image."""
    curation: Curation | None = None


def read_page(layout: Layout, data: Dataset, count: int) -> DatasetPage:
    """Return the page of a dataset, with ``count`` examples per group."""
    folder, quarantine = layout.data(data.name), layout.quarantine(data.name)
    summary = read_json(quarantine / "summary.json") or {}
    rows, groups = (
        pq.read_table(file).to_pylist() if file.is_file() else []
        for file in (quarantine / "examples.parquet", quarantine / "duplicates.parquet")
    )
    counted = read_json(layout.validation(data.name) / "profile.json")
    exact = sum(map(_is_exact, groups))
    return DatasetPage(
        data=data,
        intakes=summary,
        repeated=(exact, len(groups) - exact),
        pairs=list(_pairs(folder, rows, groups, count)),
        contaminated=list(_contaminated(layout, data, rows, count)),
        rejected=list(_rejected(summary, rows, count)),
        histograms=list(profile.histograms(counted)) if counted else (),
        tallies=list(profile.tallies(counted)) if counted else (),
        failing=list(_failing(folder, data.validation, count)),
        curation=curation.read(layout, data.name, describe(folder), count)
        if data.filtered_from
        else None,
    )


def _failing(
    folder: Path, validation: Validation | None, count: int
) -> Iterator[tuple[str, Sequence[tuple[str, Thumbnail]]]]:
    checks = validation.result["checks"] if validation and validation.current else ()
    failed = [check for check in checks if not check["passed"] and check["sample"]]
    keys = [row["key"] for check in failed for row in check["sample"][:count]]
    thumbnails, origins = _thumbnails(folder, keys), dict[str, str]()
    for row in _rows_of(folder, keys, "meta") if failed else ():
        meta = json.loads(row["meta"])
        origins[row["key"]] = str(meta.get("url") or meta.get("path") or row["key"])
    for check in failed:
        column = check["column"].rpartition(".")[2]
        rows = [(row["key"], row.get(column)) for row in check["sample"][:count]]
        texts = [f"{column} {value}: {origins.get(key, key)}" for key, value in rows]
        shown = [thumbnails[key] for key, _ in rows]
        yield check["what"], list(zip(texts, shown, strict=True))


def _is_exact(row: _Row) -> bool:
    return row.get("kind", row.get("reason")) in ("exact", Reason.DUPLICATE)


def _pairs(
    folder: Path, rows: Iterable[_Row], groups: Iterable[_Row], count: int
) -> Iterator[Pair]:
    """Yield some repeated images next to the first of their group, near-duplicates first."""
    repeated = [row for row in rows if row["reason"] in _REPEATED]
    repeated += [row for row in groups if not row["dropped"]]
    near = [row for row in repeated if not _is_exact(row)]
    exact = [row for row in repeated if _is_exact(row)]
    chosen = [*sample(near, count), *sample(exact, count)]
    thumbnails = _thumbnails(folder, [row[name] for row in chosen for name in ("of", "key")])
    for row in chosen:
        dropped = "picture" in row
        thumbnail = _thumbnail(row) if dropped else thumbnails[row["key"]]
        yield Pair(thumbnail, thumbnails[row["of"]], "", _is_exact(row), row["distance"], dropped)


def _contaminated(
    layout: Layout, data: Dataset, rows: Iterable[_Row], count: int
) -> Iterator[Pair]:
    screened = [row for row in rows if row["reason"] == Reason.CONTAMINATION and row["of"]]
    by_owner: dict[str, list[_Row]] = {}
    for row in sample(screened, count):
        by_owner.setdefault(row["of_dataset"] or data.name, []).append(row)
    for owner, of_owner in by_owner.items():
        thumbnails = _thumbnails(layout.data(owner), [row["of"] for row in of_owner])
        for row in of_owner:
            of, dataset = thumbnails[row["of"]], row["of_dataset"] or ""
            yield Pair(_thumbnail(row), of, dataset, False, row["distance"], True)


def _rejected(summary: Mapping[str, Any], rows: Iterable[_Row], count: int) -> Iterator[Rejected]:
    totals: dict[str, dict[str, int]] = {}
    for source, intake in summary.items():
        for reason, number in intake["rejected"].items():
            totals.setdefault(reason, {})[source] = number
    by_reason: dict[str, list[tuple[_Row, Thumbnail | None]]] = {}
    for row in rows:
        thumbnail = _thumbnail(row) if row["picture"] else None
        by_reason.setdefault(row["reason"], []).append((row, thumbnail))
    for reason, sources in sorted(totals.items(), key=lambda kv: (-sum(kv[1].values()), kv[0])):
        yield Rejected(reason, sources, sample(by_reason.get(reason, []), count))


def _thumbnail(row: _Row) -> Thumbnail:
    uri = data_uri(row["picture"]) if row["picture"] else ""
    return Thumbnail(row["key"], uri, tuple(row["captions"] or ()))


def _thumbnails(folder: Path, keys: Iterable[str]) -> dict[str, Thumbnail]:
    """Return the thumbnails of a dataset's records by key; those of missing records are empty."""
    thumbnails = {key: Thumbnail(key) for key in keys}
    if not thumbnails or not (folder / "index.parquet").is_file():
        return thumbnails
    splits: dict[str, list[str]] = {}
    for row in _rows_of(folder, list(thumbnails), "split"):
        splits.setdefault(row["split"], []).append(row["key"])
    for split, members in splits.items():
        records = SplitRecords(folder, split)
        thumbnails |= {key: found for key in members if (found := records.thumbnail(key))}
        records.close()
    return thumbnails


def _rows_of(folder: Path, keys: Sequence[str], column: str) -> list[dict[str, Any]]:
    index = read_index(folder, columns=["key", column])
    rows = index.filter(pc.is_in(index["key"], pa.array(keys, pa.string())))
    return list(rows.to_pylist())
