"""Data sets on the page, and a page for each: HTML in one file that fetches nothing.

Texts that a data set holds are not trusted. What is not known is empty.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.data.refusal import Reason
from albef.data.shards import describe, read_index
from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart
from albef.report.pictures import Picture, SplitRecords, data_uri, spread
from albef.report.sections import curation, profile
from albef.report.sections.curation import Curation
from albef.report.sections.profile import Tally
from albef.report.wording import flatten, format_range

WORDS = {str(reason): reason.words for reason in Reason}
"""What a reason means, in a few words."""
_REPEATED = (Reason.DUPLICATE, Reason.NEAR_DUPLICATE)
_SPLITS = ("train", "val", "test")
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    """The verdict on a data set; ``current`` where the data that were checked are those here."""

    result: Mapping[str, Any]
    current: bool

    @property
    def statistics(self) -> dict[str, str]:
        """Numbers about the data set, in words; the captions are counted elsewhere."""
        words = {}
        for name, value in self.result.get("statistics", {}).items():
            if isinstance(value, int | float) and name != "captions":
                words[name] = f"{value:,}"
            elif isinstance(value, Mapping) and {"least", "median", "most"} <= set(value):
                words[name] = format_range(value["least"], value["median"], value["most"])
        return words


@dataclass(frozen=True)
class Dataset:
    """A data set, by its ``dataset.json``; ``note`` says what is missing."""

    name: str
    used_by: Sequence[str] = ()
    """Trainings and runs that read it."""
    note: str = ""
    digest: str = ""
    captions: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    """Records of each, those of training first."""
    samples: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    """Some pictures of each split."""
    sources: Sequence[tuple[str, Mapping[str, Any]]] = ()
    licences: Sequence[Mapping[str, str]] = ()
    """Of everything in it: ``what``, ``licence``, ``attribution``, ``url``."""
    validation: Validation | None = None
    view_of: str = ""
    """The data set that it is a view of, if it is one."""


def read(layout: Layout, name: str, used_by: Sequence[str], count: int) -> Dataset:
    """A data set, its verdict and ``count`` pictures of each split."""
    folder = layout.data(name)
    described = read_json(folder / "dataset.json")
    if described is None:
        note = f"This data set has not been made yet: {folder} is missing."
        return Dataset(name, used_by, note)
    order = [*_SPLITS, *described["splits"]]
    sizes = sorted(described["splits"].items(), key=lambda pair: order.index(pair[0]))
    splits = {split: size for split, size in sizes if size}
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
    """A picture beside the one that it repeats, or that is evaluated on."""

    picture: Picture
    of: Picture
    dataset: str
    """Where that one is, if in another one."""
    exact: bool
    """Whether their files are equal."""
    distance: int | None
    """Bits of 64 between their perceptual hashes; None where none was taken."""
    dropped: bool
    """Whether the picture was."""


@dataclass(frozen=True)
class Refused:
    """The rows that were set aside for a reason: how many of each source, and the first ones.

    A row has ``line``, ``key`` and ``detail``, and stands beside its picture.
    """

    reason: str
    sources: Mapping[str, int]
    rows: Sequence[tuple[_Row, Picture | None]]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.sources.values())


@dataclass(frozen=True)
class DatasetPage:
    """Everything on the page of a data set."""

    data: Dataset
    """What the main page has of it too."""
    intakes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """``rows`` and ``kept`` of each source, in order."""
    repeated: tuple[int, int] = (0, 0)
    """Training pictures that repeat an earlier one: equal files, and those that look alike."""
    pairs: Sequence[Pair] = ()
    """Some of these."""
    contaminated: Sequence[Pair] = ()
    """Some training pictures that are evaluated on."""
    refused: Sequence[Refused] = ()
    """By reason, the most frequent first."""
    histograms: Sequence[Chart] = ()
    tallies: Sequence[Tally] = ()
    offending: Sequence[tuple[str, Sequence[tuple[str, Picture]]]] = ()
    """Of each expectation that is not met what it is, and the first rows that fail it: what of
    them does, with path or address, and their pictures."""
    curation: Curation | None = None
    """How it came about, if it is a view."""


def read_page(layout: Layout, data: Dataset, count: int) -> DatasetPage:
    """The page of a data set, with ``count`` examples of each group."""
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
    """Some repeated pictures beside the first of their group, alike ones before equal ones."""
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
    """The pictures of a data set's records, by key; those that are there."""
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
    """Key and a column of some records."""
    index = read_index(folder, columns=["key", column])
    rows = index.filter(pc.is_in(index["key"], pa.array(keys, pa.string())))
    return list(rows.to_pylist())
