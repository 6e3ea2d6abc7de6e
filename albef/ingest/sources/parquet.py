"""Kind ``parquet``: images and captions in Parquet files, as Hugging Face stores datasets.

An image is a structure with ``bytes`` and ``path``, plain bytes, or a list of these. A caption is a
string or a list of strings. If a row group is damaged, only its rows are rejected.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources import tables
from albef.ingest.sources.rows import (
    Files,
    Row,
    Source,
    SplitFiles,
    attempt,
    captions_of,
    expand_splits,
    keep,
    to_json,
)

_BATCH = 64  # rows that are in memory together with their images


class Columns(Source):
    """Columns of Parquet files with images."""

    image: str
    """Column of the images."""
    images: Literal["first", "each"] = "first"
    """Images to use if a row has a list: ``first`` uses the first one, ``each`` makes a row of each
    image, with all captions of the original row."""
    captions: Files
    """Columns of the captions; all of them are used."""
    keep: list[str] = Field([])
    """Columns to keep in meta."""

    def fields_of_row(self) -> frozenset[str]:
        """Return the field with the place of the row."""
        return frozenset({"path"})


class Config(Columns, SplitFiles):
    """Parquet files with images."""


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of all files, in order."""
    return read(config, expand_splits(config.files))


def read(config: Columns, files: Iterable[tuple[str, Path]]) -> Iterator[Record | Rejection]:
    """Yield the rows of some files, each with its split, in order."""
    number = 0
    columns = list(dict.fromkeys([config.image, *config.captions, *config.keep]))
    for split, file in files:
        for table_row in tables.read(file, "parquet", None, columns, _BATCH):
            for row in _split_images(table_row, config):
                result = attempt(row, _record, config, split, number)
                number += isinstance(result, Record)
                yield result


def _split_images(row: Row | Rejection, config: Columns) -> Iterator[Row | Rejection]:
    if isinstance(row, Rejection) or not isinstance(row.values[config.image], list):
        yield row
        return
    images = row.values[config.image] or [None]
    for position, image in enumerate(images if config.images == "each" else images[:1], 1):
        key = f"{row.key}:{position}" if config.images == "each" else row.key
        yield replace(row, values={**row.values, config.image: image}, key=key)


def _record(row: Row, config: Columns, split: str, number: int) -> Record:
    value = row.values[config.image]
    image = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(image, bytes):
        path = value.get("path") if isinstance(value, Mapping) else None
        only = f", only the path {to_json(path)}" if path else ""
        raise RowError(Reason.MISSING_FIELD, f"{config.image!r} has no bytes{only}")
    captions = captions_of(row.values[column] for column in config.captions)
    meta = {**keep(row, config.keep), "path": row.key}
    return Record(f"{split}-{number:08d}", image, captions, number, split, config.kind, meta)
