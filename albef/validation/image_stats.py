"""What the pictures of a data set look like: each decoded once, and described by six numbers."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.data.image_decoding import ImageError, flat, opened
from albef.data.shards import Shards

LOOKS = ("red", "green", "blue", "brightness", "saturation", "spread")
"""Means of the colours and of the brightness (Rec. 601 luma), 0 to 255; mean saturation (of HSV),
0 to 1; the largest standard deviation of a colour over the picture."""
_SIDE = 32  # pixels that numbers are taken from, along the longer side, or up to twice as many
_ROWS = 256  # records of a piece of work
_LUMA = np.array([0.299, 0.587, 0.114])


def looks(
    folder: Path, splits: Mapping[str, NDArray[np.int64]], threads: int
) -> NDArray[np.float64]:
    """The :data:`LOOKS` of all pictures.

    Args:
        folder: of the data set.
        splits: for each split the places of its records in the index.
        threads: that decode; 0 takes all cores.

    Returns:
        (pictures of a record, records, 6), NaN where a picture cannot be decoded.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    count = sum(map(len, splits.values()))
    found: list[NDArray[np.float64]] = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for split, places in splits.items():
            records = Shards(folder, split)

            def part(start: int, records: Shards = records) -> list[list[tuple[float, ...]]]:
                rows = (records[i] for i in range(start, min(start + _ROWS, len(records))))
                return [[_look(image, row.key) for image in row.images] for row in rows]

            done = 0
            for rows in pool.map(part, range(0, len(records), _ROWS)):
                if not found:
                    found = [np.full((count, len(LOOKS)), np.nan) for _ in rows[0]]
                values = np.asarray(rows)  # (records, pictures, 6)
                for k, own in enumerate(found):
                    own[places[done : done + len(rows)]] = values[:, k]
                done += len(rows)
            records.close()
    return np.stack(found) if found else np.empty((1, 0, len(LOOKS)))


def _look(image: bytes, key: str) -> tuple[float, ...]:
    try:
        with opened(image, key) as picture:
            picture.draft(None, (_SIDE, _SIDE))  # a JPEG is unpacked small, and read to its end
            pixels = flat(picture)
    except ImageError:
        return (float("nan"),) * len(LOOKS)
    return look(pixels)


def look(picture: Image.Image) -> tuple[float, ...]:
    """The :data:`LOOKS` of an RGB picture, rounded, from a small copy of it."""
    factor = max(1, max(picture.size) // _SIDE)
    small = np.asarray(picture.reduce(factor), np.float32).reshape(-1, 3)
    red, green, blue = small.T
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    saturation = (most - least) / np.maximum(most, 1)
    means = small.mean(0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", small, small, dtype=np.float64) / len(small)
    spread = np.sqrt(np.maximum(squares - means * means, 0)).max()
    values = (*means, means @ _LUMA, saturation.mean(dtype=np.float64), spread)
    return tuple(round(float(value), 4) for value in values)
