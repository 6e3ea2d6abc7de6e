"""Statistics of a dataset's images: each image is decoded once and described by six numbers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef.data.image_decoding import ImageError, flat, opened
from albef.data.shards import Shards, describe, read_index

STATS = ("red", "green", "blue", "brightness", "saturation", "spread")
"""Names of the numbers.

Means of the colours and of the brightness (Rec. 601 luma), 0 to 255; mean saturation (of HSV), 0 to
1; the largest standard deviation of a colour over the image.
"""
_SIDE = 32  # pixels along the longer side that colours are computed on, or up to twice as many
_DECODED = 128  # pixels along both sides that a JPEG is decoded at, at least
_ROWS = 256  # records per task of a thread
_LUMA = np.array([0.299, 0.587, 0.114])


def read_image_stats(folder: Path, threads: int) -> NDArray[np.float64]:
    """Return the :data:`STATS` of all images of a dataset (images of a record, records, 6).

    They are NaN for an image that cannot be decoded. 0 ``threads`` uses all cores.

    Raises:
        ShardError: a part of the dataset is missing or damaged.
    """
    splits = read_index(folder, columns=["split"])["split"].to_numpy(zero_copy_only=False)
    stats = np.empty((1, len(splits), len(STATS)))
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for split in describe(folder)["splits"]:
            records = Shards(folder, split)

            def decode(start: int, records: Shards = records) -> list[list[tuple[float, ...]]]:
                rows = (records[i] for i in range(start, min(start + _ROWS, len(records))))
                return [[_decoded(image, row.key) for image in row.images] for row in rows]

            pieces = [np.asarray(rows) for rows in pool.map(decode, range(0, len(records), _ROWS))]
            records.close()
            if pieces:
                values = np.concatenate(pieces).swapaxes(0, 1)  # (images, records, 6)
                stats = np.resize(stats, (len(values), *stats.shape[1:]))
                stats[:, splits == split] = values
    return stats


def _decoded(image: bytes, key: str) -> tuple[float, ...]:
    try:
        with opened(image, key) as picture:
            # A JPEG is decoded at a small scale, but read to its end.
            picture.draft(None, (_DECODED, _DECODED))
            pixels = flat(picture)
    except ImageError:
        return (float("nan"),) * len(STATS)
    return image_stats(pixels)


def image_stats(picture: Image.Image) -> tuple[float, ...]:
    """Return the :data:`STATS` of an RGB image, rounded, computed on a small copy of it."""
    factor = max(1, max(picture.size) // _SIDE)
    pixels = np.asarray(picture.reduce(factor)).reshape(-1, 3)
    planes = np.ascontiguousarray(pixels.T)  # Bytes are compared faster than floats.
    largest = planes.max(0)
    saturation = (largest - planes.min(0)) / np.maximum(largest, np.float32(1))
    means = planes.mean(1, dtype=np.float64)
    wide = planes.astype(np.float32)
    squares = np.einsum("ij,ij->i", wide, wide, dtype=np.float64) / len(pixels)
    spread = np.sqrt(np.maximum(squares - means * means, 0)).max()
    values = (*means, means @ _LUMA, saturation.mean(dtype=np.float64), spread)
    return tuple(round(float(value), 4) for value in values)
