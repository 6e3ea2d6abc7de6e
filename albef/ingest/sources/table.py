"""Kind ``table``: a table of local images with their captions, as TSV, CSV or Parquet.

A row has the path of an image and a caption. Rows with the same path have the same image id. A
number after the path, as in ``dog.jpg#0``, is that of the caption and is removed. Meta contains the
path.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from albef.config import ParamsError
from albef.data.image_formats import is_image_name
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import (
    MAX_TEXT_BYTES,
    Row,
    Split,
    attempt,
    captions_of,
    expand,
    keep,
    read_image,
    to_json,
)
from albef.ingest.sources.tables import Tables, read

SPLIT = "split"
"""Column of the splits."""
_SPLIT = re.compile(r"[a-z0-9_]{1,40}")


class Config(Tables):
    """Tables of paths and captions."""

    images: str
    """Folder that the paths are relative to; files outside it are rejected."""
    image: str
    """Column of the paths."""
    split: Split | None = "train"
    """Split of all rows; null reads it from a column ``split``."""
    splits: dict[Split, str] = Field({})
    """Lists of the images of each split, such as ``{train: train.txt, test: test.txt}``, in place
    of ``split``: text files with a path per line. Rows of other images are rejected as
    ``unlisted``, which does not count against ``ingest.min_yield``."""

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        if self.splits and self.split != "train":
            raise ValueError("set either splits or split")
        return self

    def inputs(self) -> dict[str, Path]:
        """Return the tables and the lists of images."""
        return super().inputs() | {name: Path(name) for name in self.splits.values()}

    def all_splits(self) -> set[str]:
        """Return the splits of the lists, the split of all rows, or those in the column."""
        if self.splits or self.split:
            return set(self.splits) or super().all_splits()
        tables = (read(file, self.format, self.header, [SPLIT]) for file in expand(self.files))
        rows = (row for table in tables for row in table if isinstance(row, Row))
        found = {str(row.values[SPLIT]) for row in rows}
        return set(filter(_SPLIT.fullmatch, found))

    def evaluated(self) -> Self | None:
        """Return the source without its training list; None if all rows are training rows."""
        if not self.splits:
            return super().evaluated()
        others = {split: file for split, file in self.splits.items() if split != "train"}
        return self.model_copy(update={"splits": others}) if others else None


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Yield the rows of the tables in order, then the listed images that no row has."""
    ids: dict[str, int] = {}
    listed = _listed(config.splits)
    columns = [] if config.split else [SPLIT]
    for position, row in enumerate(config.rows(config.image, *columns)):
        if isinstance(row, Row) and isinstance(name := row.values[config.image], str):
            values = {**row.values, config.image: path_in(name)}
            row = replace(row, key=to_json(name[:MAX_TEXT_BYTES]), values=values)
        yield attempt(row, _record, config, position, ids, listed)
    for name, place in listed.items():
        if name not in ids:
            yield place.rejection(
                RowError(Reason.NO_CAPTION, "no row of the tables has this image")
            )


def path_in(value: str) -> str:
    """Return the path of an image without the number of its caption, as in ``dog.jpg#0``."""
    name, hash_sign, number = value.strip().rpartition("#")
    is_numbered = hash_sign and number.isdecimal() and is_image_name(name)
    return name if is_numbered else value.strip()


def _listed(splits: Mapping[str, str]) -> dict[str, Row]:
    """Return the place in a list of each listed image; its value is the split.

    Raises:
        ParamsError: a list cannot be read, or an image is in the lists of two splits.
    """
    listed: dict[str, Row] = {}
    for split, file in splits.items():
        try:
            lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ParamsError(f"{file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ParamsError(f"{file} must be UTF-8") from None
        for line, name in enumerate(map(str.strip, lines), 1):
            place = listed.setdefault(name, Row(Path(file), line, split, name))
            if place.values != split:
                both = f"{place.file} and {file}"
                raise ParamsError(f"image {name} is in the lists of two splits: {both}")
    listed.pop("", None)
    return listed


def _record(
    row: Row, config: Config, position: int, ids: dict[str, int], listed: Mapping[str, Row]
) -> Record:
    name = row.text(config.image)
    image_id = ids.setdefault(name, position)
    if config.splits and name not in listed:
        raise RowError(Reason.UNLISTED, "the image is in none of the lists in `splits`")
    split = listed[name].values if config.splits else config.split or row.text(SPLIT)
    if not _SPLIT.fullmatch(split):
        detail = f"{SPLIT!r} must be 1 to 40 of a-z, 0-9 and _, got {split[:40]!r}"
        raise RowError(Reason.MALFORMED_ROW, detail)
    captions = captions_of([row.get(config.caption)])
    image = read_image(Path(config.images), name)
    meta = {**keep(row, config.keep), "path": to_json(name)}
    return Record(f"{split}-{position:08d}", image, captions, image_id, split, "table", meta)
