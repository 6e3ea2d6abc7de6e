"""Kind ``karpathy``: the JSON of Karpathy's splits of COCO and Flickr30K, as it is published."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from albef.config import ParamsError, Section
from albef.data.record import Record
from albef.data.sources.files import Row, read_json

LICENCES: tuple[dict[str, str], ...] = ()
TRAINED = ("train", "restval")
"""COCO's ``restval`` is trained on too, as everybody does."""


class Config(Section):
    """A JSON of Karpathy's splits, and the folder of its pictures."""

    kind: Literal["karpathy"]
    """This kind."""
    file: str
    """``dataset_coco.json`` or ``dataset_flickr30k.json``."""
    images: str
    """Folder of the pictures; COCO's lie in the folders that the file names below it."""
    splits: Annotated[list[Literal["train", "val", "test"]], Field(min_length=1)]
    """Splits to read; ``restval`` belongs to ``train``."""


def records(config: Config, seed: int) -> Iterator[Record]:
    """The pictures of the splits, each with all of its sentences.

    Raises:
        ParamsError: a file, row or picture that cannot be read; it is named.
    """
    held = read_json(Path(config.file))
    images = held.get("images") if isinstance(held, dict) else None
    if not isinstance(images, list):
        raise ParamsError(f"{config.file} must hold a list under 'images', as Karpathy's do")
    for number, values in enumerate(images):
        row = Row(values, f"{config.file}, images, row {number}")
        split = row.one_of("split", (*TRAINED, "val", "test"))
        split = "train" if split in TRAINED else split
        if split not in config.splits:
            continue
        name = row.text("filename")
        if row.get("filepath") is not None:
            name = f"{row.text('filepath')}/{name}"
        sentences = row.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            raise row.error("'sentences' must be a list that is not empty")
        yield Record(
            key=f"{split}-{number:07d}",
            image=row.picture(Path(config.images), name),
            captions=tuple(Row(sentence, row.where).text("raw") for sentence in sentences),
            image_id=number,
            split=split,
            source="karpathy",
            meta={"path": name},
        )
