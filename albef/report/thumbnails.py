"""Thumbnails of records as ``data:`` URLs for the page, and samples at even steps."""

import contextlib
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

from albef.data.boxes import MIN_IOU
from albef.data.image_decoding import ImageError, decode
from albef.data.shards import Shards
from albef.report.heatmap import CORRECT, HOTTEST, WRONG, outline, overlay

T = TypeVar("T")
UNSEEN = "unseen combination"
"""Badge of a test record with objects that training never shows together."""
_NOISE = {"wrong": "wrong caption (added noise)", "generic": "generic caption (added noise)"}
_SIDE = 160  # longest side of an image on the page, in pixels
_LOCATED_SIDE = 240  # longest side of an image with boxes, in pixels
_GAP = 4  # pixels between the images of a record


@dataclass(frozen=True)
class Thumbnail:
    """An image of a dataset as a ``data:`` URL, "" if it cannot be shown.

    ``badges`` are remarks such as "wrong caption (added noise)". ``originals`` are the captions
    before cleaning, if cleaning changed any. Texts are not trusted.
    """

    key: str
    uri: str = ""
    captions: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()


def sample(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of ``items`` at about even steps, in order.

    The steps shift by one, so a list whose kinds alternate shows all of them.
    """
    count = min(count, len(items))
    return [items[i * len(items) // count + i % (len(items) // count)] for i in range(count)]


class SplitRecords:
    """The records of a split, found by key."""

    def __init__(self, folder: Path, split: str) -> None:
        self._shards = Shards(folder, split)
        self._keys = self._shards.keys

    def __len__(self) -> int:
        return len(self._shards)

    def close(self) -> None:
        """Close the shards."""
        self._shards.close()

    def at(self, index: int) -> Thumbnail:
        """Return the thumbnail of the record at an index."""
        record = self._shards[index]
        noise = _NOISE.get(str(record.meta.get("noise")))
        badges = tuple(filter(None, (noise, UNSEEN if record.meta.get("unseen") is True else None)))
        originals = tuple(map(str, record.meta.get("original_captions", ())))
        uri = data_uri(*record.images)
        return Thumbnail(record.key, uri, record.captions, badges, originals)

    def thumbnail(self, key: str) -> Thumbnail | None:
        """Return the thumbnail of a record; None if the split has no such record."""
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
        return frozenset(self._keys[i].as_py() for i in self._same_image(key)) | {key}

    def captions(self, key: str) -> frozenset[str]:
        """Return all true captions of the record's image."""
        captions = self._shards.captions
        return frozenset(text for i in self._same_image(key) for text in captions[i].as_py())

    def _find(self, key: str) -> int | None:
        index: int = pc.index(self._keys, pa.scalar(key)).as_py()
        return None if index < 0 else index

    def _same_image(self, key: str) -> list[int]:
        index = self._find(key)
        if index is None:
            return []
        ids = self._shards.image_ids
        indices: list[int] = (ids == ids[index]).nonzero()[0].tolist()
        return indices


def data_uri(*images: bytes) -> str:
    """Return thumbnails of the images that are not broken in a row, as one ``data:`` URL, or ""."""
    row: list[Image.Image] = []
    for encoded in images:
        with contextlib.suppress(ImageError):
            image = decode(encoded)
            image.thumbnail((_SIDE, _SIDE))
            row.append(image)
    if not row:
        return ""
    width = sum(image.width for image in row) + _GAP * (len(row) - 1)
    joined = Image.new("RGB", (width, max(image.height for image in row)), "white")
    left = 0
    for image in row:
        joined.paste(image, (left, 0))
        left += image.width + _GAP
    return _encode(joined)


def draw_located(records: SplitRecords, row: Mapping[str, Any]) -> Thumbnail:
    """Return the image of a box prediction under its heat map, with the boxes."""
    image = records.image(row["key"])
    if image is None:
        return Thumbnail(row["key"], "", (row["expression"],))
    scale = _LOCATED_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    heat = np.frombuffer(row["heat"], np.uint8).astype(np.float32)
    side = round(len(heat) ** 0.5)
    large = overlay(image.resize(size, Image.Resampling.BICUBIC), heat.reshape(side, side))
    if row["map_box"]:
        outline(large, [scale * end for end in row["map_box"]], HOTTEST, width=2)
    outline(large, [scale * end for end in row["truth"]], CORRECT)
    if row["box"] and row["iou"] < MIN_IOU:
        outline(large, [scale * end for end in row["box"]], WRONG)
    return Thumbnail(row["key"], _encode(large), (row["expression"],))


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
