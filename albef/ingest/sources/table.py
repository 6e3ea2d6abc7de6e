"""Kind ``table``: a table of local images with their captions, as TSV, CSV or Parquet.

A row has the path of an image and a caption. Rows with the same path have the same image id. Meta
contains the path.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import (
    MAX_TEXT_BYTES,
    Row,
    Split,
    attempt,
    captions_of,
    keep,
    read_image,
    to_json,
)
from albef.ingest.sources.tables import Tables

SPLIT = "split"
"""Column of the splits."""


class Config(Tables):
    """Tables of paths and captions."""

    images: str
    """Folder that the paths are relative to; files outside it are rejected."""
    image: str
    """Column of the paths."""
    split: Split | None = "train"
    """Split of all rows; null reads it from a column ``split``."""


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of the tables, in order."""
    ids: dict[str, int] = {}
    splits = [] if config.split else [SPLIT]
    for position, row in enumerate(config.rows(config.image, *splits)):
        if isinstance(row, Row) and isinstance(name := row.values[config.image], str):
            row = replace(row, key=to_json(name[:MAX_TEXT_BYTES]))
        yield attempt(row, _record, config, position, ids)


def _record(row: Row, config: Config, position: int, ids: dict[str, int]) -> Record:
    name = row.text(config.image).strip()
    split = config.split or row.text(SPLIT)
    if not re.fullmatch(r"[a-z0-9_]{1,40}", split):
        detail = f"{SPLIT!r} must be 1 to 40 of a-z, 0-9 and _, got {split[:40]!r}"
        raise RowError(Reason.MALFORMED_ROW, detail)
    captions = captions_of([row.get(config.caption)])
    image = read_image(Path(config.images), name)
    meta = {**keep(row, config.keep), "path": to_json(name)}
    image_id = ids.setdefault(name, position)
    return Record(f"{split}-{position:08d}", image, captions, image_id, split, "table", meta)
