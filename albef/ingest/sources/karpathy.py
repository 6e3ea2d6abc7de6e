"""Kind ``karpathy``: the JSON of Karpathy's splits of COCO and Flickr30K, as it is published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.refusal import Reason, Refusal, Refused
from albef.ingest.sources.files import Row, read_json
from albef.ingest.sources.licences import Outside

LICENCES: tuple[dict[str, str], ...] = ()
TRAINED = ("train", "restval")
"""COCO's ``restval`` is trained on too, as everybody does."""


class Config(Outside):
    """A JSON of Karpathy's splits, and the folder of its pictures."""

    kind: Literal["karpathy"]
    """This kind."""
    file: str
    """``dataset_coco.json`` or ``dataset_flickr30k.json``."""
    images: str
    """Folder of the pictures; COCO's lie in the folders that the file names below it."""
    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)]
    """Splits to read; ``restval`` belongs to ``train``."""


def records(config: Config, seed: int) -> Iterator[Record | Refusal]:
    """The pictures of the splits, each with all of its sentences.

    Raises:
        ParamsError: the file cannot be read; it is named.
    """
    for number, values in enumerate(_images(config)):
        row = Row(values, f"{config.file}, images", number + 1)
        try:
            record = _record(config, row, number)
        except Refused as error:
            yield row.refusal(error, "filename")
        else:
            if record is not None:
                yield record


def count(config: Config) -> int:
    """Pictures of the splits, and rows that name none."""
    splits = (row.get("split") if isinstance(row, dict) else None for row in _images(config))
    asked = [*config.splits, *(TRAINED if "train" in config.splits else ())]
    left_out = [split for split in (*TRAINED, "val", "test") if split not in asked]
    return sum(split not in left_out for split in splits)


def _images(config: Config) -> list[Any]:
    held = read_json(Path(config.file))
    images = held.get("images") if isinstance(held, dict) else None
    if not isinstance(images, list):
        raise ParamsError(f"{config.file} must hold a list under 'images', as Karpathy's do")
    return images


def _record(config: Config, row: Row, number: int) -> Record | None:
    """The record of a row; None where its split is not asked for."""
    split = row.one_of("split", (*TRAINED, "val", "test"))
    split = "train" if split in TRAINED else split
    if split not in config.splits:
        return None
    name = row.text("filename")
    if row.get("filepath") is not None:
        name = f"{row.text('filepath')}/{name}"
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        said = "'sentences' must be a list that is not empty"
        raise row.refused(Reason.MISSING_FIELD, said)
    return Record(
        key=f"{split}-{number:07d}",
        image=row.picture(Path(config.images), name),
        captions=tuple(row.inner(sentence).text("raw") for sentence in sentences),
        image_id=number,
        split=split,
        source="karpathy",
        meta={"path": name},
    )
