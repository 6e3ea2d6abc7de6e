"""Kind ``table``: a table of local pictures with their captions, as TSV, CSV or Parquet.

A row is a picture's path and a caption; rows of one path show one picture. Meta holds the path.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources import tables
from albef.ingest.sources.rows import (
    Files,
    Row,
    Source,
    Split,
    attempt,
    captions_of,
    expand,
    plain,
    read_picture,
)

SPLIT = "split"
"""Column of the splits."""


class Config(Source):
    """Tables of paths and captions."""

    files: Files
    """Tables, as paths or patterns."""
    format: Literal["tsv", "csv", "parquet"]
    """What they are: TSV without quotes, CSV as RFC 4180 has it, or Parquet."""
    header: list[str] | None = None
    """Names of the columns of a text whose first line does not name them, else null."""
    images: str
    """Folder that the paths start from; what lies outside it is not read."""
    image: str
    """Column of the paths."""
    caption: str
    """Column of the captions; in Parquet it may hold lists."""
    split: Split | None = "train"
    """Split of all rows; null takes it from a column ``split``."""
    keep: list[str] = Field([])
    """Columns kept in meta."""


def records(config: Config, seed: int) -> Iterator[Record | Refusal]:
    """The rows of the tables, in order.

    Raises:
        ParamsError: a file that cannot be read at all, or has no such column; it is named.
    """
    splits = [] if config.split else [SPLIT]
    columns = list(dict.fromkeys([config.image, config.caption, *splits, *config.keep]))
    ids: dict[str, int] = {}
    rows = (
        row
        for file in expand(config.files)
        for row in tables.read(file, config.format, config.header, columns)
    )
    for place, row in enumerate(rows):
        if isinstance(row, Row) and isinstance(name := row.values[config.image], str):
            row = replace(row, key=plain(name))
        yield attempt(row, _record, config, place, ids)


def count(config: Config) -> int:
    """Rows of the tables, about."""
    titled = config.header is None
    return sum(tables.count(file, config.format, titled) for file in expand(config.files))


def _record(row: Row, config: Config, place: int, ids: dict[str, int]) -> Record:
    name = row.text(config.image).strip()
    split = config.split or row.text(SPLIT)
    if not re.fullmatch(r"[a-z0-9_]{1,40}", split):
        what = "is to be a split in small letters, digits and _"
        raise Refused(Reason.MALFORMED_ROW, f"{SPLIT!r} {what}, not {split[:40]!r}")
    captions = captions_of([row.get(config.caption)])
    image = read_picture(Path(config.images), name)
    meta = {column: plain(row.values[column]) for column in config.keep}
    image_id = ids.setdefault(name, place)
    meta["path"] = plain(name)
    return Record(f"{split}-{place:08d}", image, captions, image_id, split, "table", meta)
