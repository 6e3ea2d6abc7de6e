"""Kind ``table``: a table of local images with their captions, as TSV, CSV or Parquet.

A row holds the path of an image and a caption. Rows with the same path show the same image. Meta
holds the path.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import Row, Split, attempt, captions_of, read_image, to_json
from albef.ingest.sources.tables import Tables

SPLIT = "split"
"""Column of the splits."""


class Config(Tables):
    """Tables of paths and captions."""

    images: str
    """Folder that the paths start from; files outside it are not read."""
    image: str
    """Column of the paths."""
    split: Split | None = "train"
    """Split of all rows; null takes it from a column ``split``."""


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of the tables, in order.

    Raises:
        ParamsError: a file cannot be read at all, or lacks a column; the message names it.
    """
    ids: dict[str, int] = {}
    splits = [] if config.split else [SPLIT]
    for place, row in enumerate(config.rows(config.image, *splits)):
        if isinstance(row, Row) and isinstance(name := row.values[config.image], str):
            row = replace(row, key=to_json(name))
        yield attempt(row, _record, config, place, ids)


def _record(row: Row, config: Config, place: int, ids: dict[str, int]) -> Record:
    name = row.text(config.image).strip()
    split = config.split or row.text(SPLIT)
    if not re.fullmatch(r"[a-z0-9_]{1,40}", split):
        requirement = "is to be a split in small letters, digits and _"
        raise RowError(Reason.MALFORMED_ROW, f"{SPLIT!r} {requirement}, not {split[:40]!r}")
    captions = captions_of([row.get(config.caption)])
    image = read_image(Path(config.images), name)
    meta = {column: to_json(row.values[column]) for column in config.keep}
    image_id = ids.setdefault(name, place)
    meta["path"] = to_json(name)
    return Record(f"{split}-{place:08d}", image, captions, image_id, split, "table", meta)
