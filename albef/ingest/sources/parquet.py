"""Kind ``parquet``: pictures and captions in Parquet files, as Hugging Face stores data sets.

A picture is a structure of ``bytes`` and ``path``, or plain bytes; a caption is a text or a list of
texts. A row group that is damaged costs its own rows.
"""

from collections.abc import Iterator, Mapping

from pydantic import Field

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources import tables
from albef.ingest.sources.rows import (
    Files,
    FilesBySplit,
    Row,
    Source,
    attempt,
    captions_of,
    expand_splits,
    plain,
)

_BATCH = 64  # rows, which hold their pictures


class Config(Source):
    """Parquet files that hold pictures."""

    files: FilesBySplit
    """Files by split, as paths or patterns."""
    image: str
    """Column of the pictures."""
    captions: Files
    """Columns of the captions; those of a row are taken together."""
    keep: list[str] = Field([])
    """Columns kept in meta."""


def records(config: Config, seed: int) -> Iterator[Record | Refusal]:
    """The rows of all files, in order.

    Raises:
        ParamsError: a file that cannot be read at all, or that has no such column.
    """
    number = 0
    columns = list(dict.fromkeys([config.image, *config.captions, *config.keep]))
    for split, file in expand_splits(config.files):
        for row in tables.read(file, "parquet", None, columns, _BATCH):
            result = attempt(row, _record, config, split, number)
            number += isinstance(result, Record)
            yield result


def count(config: Config) -> int:
    """Rows of all files."""
    return sum(tables.count(file, "parquet") for _, file in expand_splits(config.files))


def _record(row: Row, config: Config, split: str, number: int) -> Record:
    picture = row.values[config.image]
    image = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if not isinstance(image, bytes):
        path = picture.get("path") if isinstance(picture, Mapping) else None
        where = f": its file {plain(path)} lies elsewhere" if path else ""
        raise Refused(Reason.MISSING_FIELD, f"{config.image!r} holds no bytes{where}")
    captions = captions_of(row.values[column] for column in config.captions)
    meta = {**{name: plain(row.values[name]) for name in config.keep}, "path": row.key}
    return Record(f"{split}-{number:08d}", image, captions, number, split, "parquet", meta)
