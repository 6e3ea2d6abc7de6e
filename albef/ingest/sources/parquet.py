"""Kind ``parquet``: pictures and captions in Parquet files, as Hugging Face stores data sets.

A picture is a structure of ``bytes`` and ``path``, or plain bytes; a caption is a text or a list of
texts. A row group that is damaged costs its own rows.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources import tables
from albef.ingest.sources.licences import Outside
from albef.ingest.sources.tables import expand, parquet_rows
from albef.ingest.sources.values import plain, texts

LICENCES: tuple[dict[str, str], ...] = ()
_BATCH = 64  # rows, which hold their pictures

Split = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Config(Outside):
    """Parquet files that hold pictures."""

    kind: Literal["parquet"]
    """This kind."""
    files: Annotated[dict[Split, Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    """Files by split, as paths or patterns."""
    image: str
    """Column of the pictures."""
    captions: Annotated[list[str], Field(min_length=1)]
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
    for split, patterns in config.files.items():
        for file in expand(patterns):
            for line, values in parquet_rows(file, columns, _BATCH):
                key = f"{file.name}:{line}"
                try:
                    if isinstance(values, Refused):
                        raise values
                    record = _record(config, values, split, number, key)
                except Refused as error:
                    yield Refusal("", line, key, error.reason, f"{file}: {error}")
                    continue
                number += 1
                yield record


def count(config: Config) -> int:
    """Rows of all files."""
    files = (file for patterns in config.files.values() for file in expand(patterns))
    return sum(tables.count(file, "parquet", titled=False) for file in files)


def _record(config: Config, values: Mapping[str, Any], split: str, number: int, key: str) -> Record:
    held = values[config.image]
    image = held.get("bytes") if isinstance(held, Mapping) else held
    if not isinstance(image, bytes):
        path = held.get("path") if isinstance(held, Mapping) else None
        said = f": its file {plain(path)} lies elsewhere" if path else ""
        raise Refused(Reason.MISSING_FIELD, f"{config.image!r} holds no bytes{said}")
    return Record(
        key=f"{split}-{number:08d}",
        image=image,
        captions=texts(values[column] for column in config.captions),
        image_id=number,
        split=split,
        source="parquet",
        meta={**{name: plain(values[name]) for name in config.keep}, "path": key},
    )
