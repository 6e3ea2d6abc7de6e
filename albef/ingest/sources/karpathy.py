"""Kind ``karpathy``: the JSON of Karpathy's splits of COCO, Flickr8k and Flickr30K."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.sources.rows import Row, Source, attempt, json_rows, read_image, read_json

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""Splits of the file, and the splits that they become. As is common practice, COCO's ``restval`` is
used for training."""


class Config(Source):
    """JSON of Karpathy's splits, and the folder of its images."""

    file: str
    """``dataset_coco.json``, ``dataset_flickr8k.json`` or ``dataset_flickr30k.json``."""
    images: str
    """Folder of the images; COCO's are in its sub-folders ``train2014`` and ``val2014``."""
    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)]
    """Splits to read; ``train`` includes ``restval``."""

    def inputs(self) -> dict[str, Path]:
        """Return the JSON file."""
        return {self.file: Path(self.file)}

    def all_splits(self) -> set[str]:
        """Return the splits that are read."""
        return set(self.splits)

    def evaluated(self) -> Self | None:
        """Return the source without its training split; None if nothing is left."""
        others = [split for split in self.splits if split != "train"]
        return self.model_copy(update={"splits": others}) if others else None


def records(config: Config, seed: int) -> Iterator[Record | Rejection]:
    """Return the images of the splits, each with all of its captions."""
    return (attempt(row, _record, config) for row in _rows(config))


def _rows(config: Config) -> Iterator[Row]:
    """Yield the rows of the splits that are read, and rows without a split."""
    values = read_json(Path(config.file))
    images = values.get("images") if isinstance(values, dict) else None
    if not isinstance(images, list):
        raise ParamsError(f"{config.file} must contain an object with a list 'images'")
    left_out = [theirs for theirs, split in SPLITS.items() if split not in config.splits]
    for row in json_rows(Path(config.file), images, "filename"):
        if not isinstance(row.values, dict) or row.values.get("split") not in left_out:
            yield row


def _record(row: Row, config: Config) -> Record:
    split = SPLITS[row.one_of("split", tuple(SPLITS))]
    name = row.text("filename")
    if row.get("filepath") is not None:
        name = f"{row.text('filepath')}/{name}"
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise RowError(Reason.MISSING_FIELD, "'sentences' must be a non-empty list")
    image = read_image(Path(config.images), name)
    captions = tuple(Row(row.file, row.line, sentence).text("raw") for sentence in sentences)
    number = row.line - 1
    return Record(
        f"{split}-{number:07d}", image, captions, number, split, "karpathy", {"path": name}
    )
