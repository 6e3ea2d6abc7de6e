"""Kind ``parquet``: images and captions in Parquet files, as Hugging Face stores datasets.

An image is a structure of ``bytes`` and ``path``, plain bytes, or a list of these. A caption is a
string or a list of strings. If a row group is damaged, only its rows are rejected.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources import tables
from albef.ingest.sources.rows import (
    Files,
    FilesBySplit,
    Row,
    SplitFiles,
    attempt,
    captions_of,
    expand_splits,
    to_json,
)

_BATCH = 64  # rows that are in memory together with their images


class Config(SplitFiles):
    """Parquet files that hold images."""

    files: FilesBySplit
    """Files by split, as paths or patterns."""
    image: str
    """Column of the images."""
    images: Literal["first", "each"] = "first"
    """Images to use if a row holds a list: ``first`` takes the first image, ``each`` makes a row of
    each image. Such a row has all captions of the original row and is counted separately."""
    captions: Files
    """Columns of the captions; a row gets the captions of all of them."""
    keep: list[str] = Field([])
    """Columns to keep in meta."""


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of all files, in order.

    Raises:
        ParamsError: a file cannot be read at all, or lacks a column.
    """
    number = 0
    columns = list(dict.fromkeys([config.image, *config.captions, *config.keep]))
    for split, file in expand_splits(config.files):
        for table_row in tables.read(file, "parquet", None, columns, _BATCH):
            for row in _of_each_picture(table_row, config):
                result = attempt(row, _record, config, split, number)
                number += isinstance(result, Record)
                yield result


def _of_each_picture(row: Row | Rejection, config: Config) -> Iterator[Row | Rejection]:
    """Yield the row with its one image, or a row for each image of a list in turn."""
    pictures = [] if isinstance(row, Rejection) else row.values[config.image]
    if isinstance(row, Rejection) or not isinstance(pictures, list):
        yield row
        return
    chosen = pictures if config.images == "each" else pictures[:1]
    for place, picture in enumerate(chosen or [None], 1):
        key = f"{row.key}:{place}" if config.images == "each" else row.key
        yield replace(row, values={**row.values, config.image: picture}, key=key)


def _record(row: Row, config: Config, split: str, number: int) -> Record:
    picture = row.values[config.image]
    image = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if not isinstance(image, bytes):
        path = picture.get("path") if isinstance(picture, Mapping) else None
        where = f": its file {to_json(path)} lies elsewhere" if path else ""
        raise RowError(Reason.MISSING_FIELD, f"{config.image!r} holds no bytes{where}")
    captions = captions_of(row.values[column] for column in config.captions)
    meta = {**{name: to_json(row.values[name]) for name in config.keep}, "path": row.key}
    return Record(f"{split}-{number:08d}", image, captions, number, split, "parquet", meta)
