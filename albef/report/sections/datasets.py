"""Datasets in the report, and a self-contained HTML page for each.

Texts of a dataset are not trusted. Unknown values are empty.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.rejection import Reason
from albef.data.shards import describe, read_index
from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart
from albef.report.pictures import Picture, SplitRecords, data_uri, spread
from albef.report.sections import curation, profile
from albef.report.sections.curation import Curation
from albef.report.sections.profile import Tally
from albef.report.wording import flatten, format_range, training_first

WORDS = {str(reason): reason.words for reason in Reason}
"""Short description of each reason for rejection."""
_REPEATED = (Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    """The verdict on a dataset; ``current`` is whether the checked data are the current data."""

    result: Mapping[str, Any]
    current: bool

    @property
    def statistics(self) -> dict[str, str]:
        """Return statistics of the dataset as text, without the number of captions.

        The page shows that number elsewhere.
        """
        words = {}
        for name, value in self.result.get("statistics", {}).items():
            if isinstance(value, int | float) and name != "captions":
                words[name] = f"{value:,}"
            elif isinstance(value, Mapping) and {"least", "median", "most"} <= set(value):
                words[name] = format_range(value["least"], value["median"], value["most"])
        return words


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
    samples: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Sample images of each split."""
    sources: Sequence[tuple[str, Mapping[str, Any]]] = ()
    licences: Sequence[Mapping[str, str]] = ()
    """Licences of all its parts: ``what``, ``licence``, ``attribution``, ``url``."""
    validation: Validation | None = None
    view_of: str = ""
    """Dataset that it is a filtered dataset of, or ""."""


def read(layout: Layout, name: str, used_by: Sequence[str], count: int) -> Dataset:
    """Return a dataset, its verdict and ``count`` images of each split."""
    folder = layout.data(name)
    described = read_json(folder / "dataset.json")
    if described is None:
        note = f"This data set has not been made yet: {folder} is missing."
        return Dataset(name, used_by, note)
    splits = {split: size for split, size in training_first(described["splits"]).items() if size}
    samples = {}
    for split in splits:
        records = SplitRecords(folder, split)
        samples[split] = [records.at(index) for index in spread(range(len(records)), count)]
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
        licences=[{"attribution": "", "url": "", **item} for item in described.get("licences", [])],
        validation=verdict and Validation(verdict, verdict["digest"] == described["digest"]),
        view_of=described.get("curated", {}).get("of", ""),
    )


@dataclass(frozen=True)
class Pair:
    """An image next to the one that it repeats, or that is used for evaluation."""

    picture: Picture
    of: Picture
    dataset: str
    """Dataset of the other image, if it is a different one."""
    exact: bool
    """True if the files are equal."""
    distance: int | None
    """Bits of 64 in which their perceptual hashes differ; None if they were not hashed."""
    dropped: bool
    """True if the image was removed."""


@dataclass(frozen=True)
class Refused:
    """Rows rejected for one reason: the number by source, and the first rows.

    A row has ``line``, ``key`` and ``detail``, and is paired with its image.
    """

    reason: str
    sources: Mapping[str, int]
    rows: Sequence[tuple[_Row, Picture | None]]

    @property
    def count(self) -> int:
        """Return the number of rejected rows."""
        return sum(self.sources.values())


@dataclass(frozen=True)
class DatasetPage:
    """Content of the page of a dataset."""

    data: Dataset
    """The part that the main page shows too."""
    intakes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """``rows`` and ``kept`` of each source, in order."""
    repeated: tuple[int, int] = (0, 0)
    """Number of training images that repeat an earlier one: equal files, and near-duplicates."""
    pairs: Sequence[Pair] = ()
    """Some of the repeated images."""
    contaminated: Sequence[Pair] = ()
    """Some training images that are also evaluated on."""
    refused: Sequence[Refused] = ()
    """Rejected rows by reason, most frequent first."""
    histograms: Sequence[Chart] = ()
    tallies: Sequence[Tally] = ()
    offending: Sequence[tuple[str, Sequence[tuple[str, Picture]]]] = ()
    """Description of each expectation that fails, and the first rows that fail it. A row has the
    failing value, with path or address, and its image."""
    curation: Curation | None = None
    """Origin of the dataset, if it is a filtered dataset."""


def read_page(layout: Layout, data: Dataset, count: int) -> DatasetPage:
    """Return the page of a dataset, with ``count`` examples per group."""
    folder, quarantine = layout.data(data.name), layout.quarantine(data.name)
    summary = read_json(quarantine / "summary.json") or {}
    rows, groups = (
        pq.read_table(path).to_pylist() if path.is_file() else []
        for path in (quarantine / "examples.parquet", quarantine / "duplicates.parquet")
    )
    counted = read_json(layout.validation(data.name) / "profile.json")
    exact = sum(map(_is_exact, groups))
    return DatasetPage(
        data=data,
        intakes=summary,
        repeated=(exact, len(groups) - exact),
        pairs=list(_pairs(folder, rows, groups, count)),
        contaminated=list(_contaminated(layout, data, rows, count)),
        refused=list(_refused(summary, rows, count)),
        histograms=list(profile.histograms(counted)) if counted else (),
        tallies=list(profile.tallies(counted)) if counted else (),
        offending=list(_offending(folder, data.validation, count)),
        curation=curation.read(layout, data.name, describe(folder), count)
        if data.view_of
        else None,
    )


def _offending(
    folder: Path, validation: Validation | None, count: int
) -> Iterator[tuple[str, Sequence[tuple[str, Picture]]]]:
    checks = validation.result["checks"] if validation and validation.current else ()
    failed = [check for check in checks if not check["passed"] and check["sample"]]
    keys = [row["key"] for check in failed for row in check["sample"][:count]]
    pictures, origins = _pictures(folder, keys), dict[str, str]()
    for row in _rows_of(folder, keys, "meta") if failed else ():
        meta = json.loads(row["meta"])
        origins[row["key"]] = str(meta.get("url") or meta.get("path") or row["key"])
    for check in failed:
        column = check["column"].rpartition(".")[2]
        yield (
            check["what"],
            [
                (
                    f"{column} {row.get(column)}: {origins.get(row['key'], row['key'])}",
                    pictures.get(row["key"], Picture(row["key"])),
                )
                for row in check["sample"][:count]
            ],
        )


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
    chosen = [*spread(near, count), *spread(exact, count)]
    pictures = _pictures(folder, [row[name] for row in chosen for name in ("of", "key")])
    for row in chosen:
        dropped = "picture" in row
        picture = _picture(row) if dropped else pictures.get(row["key"], Picture(row["key"]))
        match = pictures.get(row["of"], Picture(row["of"]))
        yield Pair(picture, match, "", _is_exact(row), row["distance"], dropped)


def _contaminated(
    layout: Layout, data: Dataset, rows: Iterable[_Row], count: int
) -> Iterator[Pair]:
    screened = [row for row in rows if row["reason"] == Reason.CONTAMINATION and row["of"]]
    by_owner: dict[str, list[_Row]] = {}
    for row in spread(screened, count):
        by_owner.setdefault(row["of_dataset"] or data.name, []).append(row)
    for owner, of_owner in by_owner.items():
        pictures = _pictures(layout.data(owner), [row["of"] for row in of_owner])
        for row in of_owner:
            match = pictures.get(row["of"], Picture(row["of"]))
            yield Pair(_picture(row), match, row["of_dataset"] or "", False, row["distance"], True)


def _refused(summary: Mapping[str, Any], rows: Iterable[_Row], count: int) -> Iterator[Refused]:
    totals: dict[str, dict[str, int]] = {}
    for source, intake in summary.items():
        for reason, number in intake["set_aside"].items():
            totals.setdefault(reason, {})[source] = number
    by_reason: dict[str, list[tuple[_Row, Picture | None]]] = {}
    for row in rows:
        picture = _picture(row) if row["picture"] else None
        by_reason.setdefault(row["reason"], []).append((row, picture))
    for reason, sources in sorted(totals.items(), key=lambda kv: (-sum(kv[1].values()), kv[0])):
        yield Refused(reason, sources, spread(by_reason.get(reason, []), count))


def _picture(row: _Row) -> Picture:
    uri = data_uri(row["picture"]) if row["picture"] else ""
    return Picture(row["key"], uri, tuple(row["captions"] or ()))


def _pictures(folder: Path, keys: Iterable[str]) -> dict[str, Picture]:
    """Return the images of a dataset's records by key, without missing ones."""
    unique_keys = list(dict.fromkeys(keys))
    if not unique_keys or not (folder / "index.parquet").is_file():
        return {}
    splits: dict[str, list[str]] = {}
    for row in _rows_of(folder, unique_keys, "split"):
        splits.setdefault(row["split"], []).append(row["key"])
    pictures: dict[str, Picture] = {}
    for split, members in splits.items():
        records = SplitRecords(folder, split)
        pictures |= {key: pic for key in members if (pic := records.picture(key)) is not None}
        records.close()
    return pictures


def _rows_of(folder: Path, keys: Sequence[str], column: str) -> list[dict[str, Any]]:
    """Return the key and one column of some records."""
    index = read_index(folder, columns=["key", column])
    rows = index.filter(pc.is_in(index["key"], pa.array(keys, pa.string())))
    return list(rows.to_pylist())
