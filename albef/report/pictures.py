"""Images of records as ``data:`` URLs for the page, and samples at even steps."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from albef.data.boxes import RIGHT
from albef.data.image_decoding import ImageError, decode
from albef.data.shards import Shards
from albef.report.heatmap import MEANT, OWN, WRONG, outline, overlay

T = TypeVar("T")
UNSEEN = "unseen combination"
"""Badge of a test record with objects that training never shows together."""
_SIDE = 160  # longest side of an image on the page, in pixels
_LOCATED_SIDE = 240  # longest side of an image with boxes, in pixels
_GAP = 4  # pixels between the images of a record


@dataclass(frozen=True)
class Picture:
    """An image of a dataset as a ``data:`` URL, "" if it cannot be shown.

    ``badges`` are further remarks, as "caption wrong on purpose". ``originals`` are the captions
    before cleaning, if cleaning changed any. Texts are not trusted.
    """

    key: str
    uri: str = ""
    captions: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of ``items`` at even steps, in order.

    Each step moves one position further in its part than the step before. A list whose kinds
    alternate therefore shows all of them.
    """
    count = min(count, len(items))
    return [items[i * len(items) // count + i % (len(items) // count)] for i in range(count)]


class SplitRecords:
    """The records of a split, found by key.

    Raises:
        ShardError: a part of the dataset is missing or damaged.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._shards = Shards(folder, split)
        self._keys = self._shards.keys

    def __len__(self) -> int:
        return len(self._shards)

    def close(self) -> None:
        """Close the shards."""
        self._shards.close()

    def at(self, index: int) -> Picture:
        """Return the image of the record at an index."""
        record = self._shards[index]
        uri = side_by_side(record.images) if record.more else data_uri(record.image)
        unedited = tuple(map(str, record.meta.get("original_captions", ())))
        return Picture(record.key, uri, record.captions, _badges(record.meta), unedited)

    def picture(self, key: str) -> Picture | None:
        """Return the image of a record; None if the split has no such record."""
        index = self._find(key)
        return None if index is None else self.at(index)

    def image(self, key: str) -> Image.Image | None:
        """Return the decoded image of a record; None if there is none, or it is broken."""
        index = self._find(key)
        try:
            return None if index is None else decode(self._shards[index].image, key)
        except ImageError:
            return None

    def same(self, key: str) -> frozenset[str]:
        """Return the keys of the records that show the same image."""
        return frozenset(self._keys[i].as_py() for i in self._twins(key)) | {key}

    def captions(self, key: str) -> frozenset[str]:
        """Return all true captions of the record's image."""
        return frozenset(c for i in self._twins(key) for c in self._shards.captions[i].as_py())

    def unseen(self) -> list[str]:
        """Return the keys of records with objects that training never shows together."""
        keys = enumerate(self._keys.to_pylist())
        return [key for i, key in keys if UNSEEN in _badges(self._shards.meta(i))]

    def _find(self, key: str) -> int | None:
        index: int = pc.index(self._keys, pa.scalar(key)).as_py()
        return None if index < 0 else index

    def _twins(self, key: str) -> list[int]:
        index = self._find(key)
        if index is None:
            return []
        ids = self._shards.image_ids
        twins: list[int] = (ids == ids[index]).nonzero()[0].tolist()
        return twins


def _badges(meta: Mapping[str, Any]) -> tuple[str, ...]:
    noise = {"wrong": "caption wrong on purpose", "generic": "caption says nothing, on purpose"}
    badges = [noise[meta["noise"]]] if meta.get("noise") in noise else []
    return (*badges, *([UNSEEN] if meta.get("unseen") is True else []))


def side_by_side(images: Sequence[bytes]) -> str:
    """Return the images of a record in a row, as one URL; a broken one leaves a gap."""
    pictures = []
    for image in images:
        try:
            picture = decode(image)
        except ImageError:
            picture = Image.new("RGB", (_SIDE, _SIDE), "white")
        picture.thumbnail((_SIDE, _SIDE))
        pictures.append(picture)
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + _GAP
    return _address(row, max(row.size))


def draw_located(records: SplitRecords, row: Mapping[str, Any]) -> Picture:
    """Return the image of a box prediction under its heat map, with the boxes."""
    picture = records.image(row["key"])
    if picture is None:
        return Picture(row["key"], "", (row["expression"],))
    scale = _LOCATED_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    heat = np.frombuffer(row["heat"], np.uint8).astype(np.float32)
    side = round(len(heat) ** 0.5)
    large = overlay(picture.resize(size, Image.Resampling.BICUBIC), heat.reshape(side, side))
    if row["map_box"]:
        outline(large, [scale * end for end in row["map_box"]], OWN, width=2)
    outline(large, [scale * end for end in row["truth"]], MEANT)
    if row["box"] and row["iou"] < RIGHT:
        outline(large, [scale * end for end in row["box"]], WRONG)
    return Picture(row["key"], _address(large, _LOCATED_SIDE), (row["expression"],))


def data_uri(image: bytes) -> str:
    """Return a thumbnail of an image as a ``data:`` URL; "" if the image is broken."""
    try:
        picture = decode(image)
    except ImageError:
        return ""
    return _address(picture)


def _address(picture: Image.Image, max_side: int = _SIDE) -> str:
    picture.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
