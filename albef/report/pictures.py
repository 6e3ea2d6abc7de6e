"""What the page shows of records: pictures as ``data:`` addresses, taken at even steps."""

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
"""Badge of a test record that shows what training never shows together."""
_SIDE = 160  # pixels of the longest side of a picture on the page
_LOCATED_SIDE = 240  # of one with boxes
_GAP = 4  # pixels between the pictures of a record


@dataclass(frozen=True)
class Picture:
    """A picture of a data set as a ``data:`` address, "" where it cannot be shown; texts are not
    trusted.

    ``badges`` are what else is worth a word, as "caption wrong on purpose"; ``originals`` the
    captions as they came, where cleaning changed any.
    """

    key: str
    uri: str = ""
    captions: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of ``items`` at even steps, in order.

    Each step is one place further in its part than the one before, so that a list whose kinds take
    turns shows all of them.
    """
    count = min(count, len(items))
    return [items[i * len(items) // count + i % (len(items) // count)] for i in range(count)]


class SplitRecords:
    """The records of a split, found by key.

    Raises:
        ShardError: a part of the data set is missing or damaged.
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
        """The picture of the record at a place."""
        record = self._shards[index]
        uri = side_by_side(record.images) if record.more else data_uri(record.image)
        unedited = tuple(map(str, record.meta.get("original_captions", ())))
        return Picture(record.key, uri, record.captions, _badges(record.meta), unedited)

    def picture(self, key: str) -> Picture | None:
        """The picture of a record; None where there is no such record."""
        index = self._find(key)
        return None if index is None else self.at(index)

    def image(self, key: str) -> Image.Image | None:
        """The decoded picture of a record; None where there is none, or it is broken."""
        index = self._find(key)
        try:
            return None if index is None else decode(self._shards[index].image, key)
        except ImageError:
            return None

    def same(self, key: str) -> frozenset[str]:
        """Keys of the records that show the same picture."""
        return frozenset(self._keys[i].as_py() for i in self._twins(key)) | {key}

    def captions(self, key: str) -> frozenset[str]:
        """What is truly said of the record's picture."""
        return frozenset(c for i in self._twins(key) for c in self._shards.captions[i].as_py())

    def unseen(self) -> list[str]:
        """Keys of the records that show what training never shows together."""
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
    """The pictures of a record in a row, as one address; a broken one leaves its place empty."""
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
    """The picture of a prediction of boxes under its heat map, with the boxes."""
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
    """A picture, made small, as an address that holds it; "" if it is broken."""
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
