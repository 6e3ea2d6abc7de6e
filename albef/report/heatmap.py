"""Heat maps and boxes drawn over pictures, with Pillow alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

MEANT, WRONG, OWN = (22, 138, 78), (208, 48, 40), (27, 33, 48)
"""Colours of the box that is meant, of one that is not, and of a map's own box."""
# Heat from 0 to 1 to colour; what is cold shows the picture.
_HEATS = (0.0, 0.35, 0.6, 0.8, 1.0)
_COLOURS = ((66, 92, 214), (46, 176, 190), (246, 212, 70), (240, 130, 42), (200, 28, 44))
_STRONGEST = 0.8  # share of the colour at the peak


def overlay(picture: Image.Image, heat: NDArray[Any], peak: float | None = None) -> Image.Image:
    """A picture (RGB) under a heat map (n, n) from 0, hottest at ``peak`` or the map's own; without
    heat the picture comes back as it is."""
    peak = float(heat.max()) if peak is None else peak
    if peak <= 0:
        return picture.copy()
    small = Image.fromarray((heat / peak).astype(np.float32))
    large = np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC)).clip(0, 1)
    channels = [np.interp(large, _HEATS, channel) for channel in zip(*_COLOURS, strict=True)]
    share = _STRONGEST * large[..., None] ** 0.7
    mixed = np.asarray(picture, np.float32) * (1 - share) + np.stack(channels, -1) * share
    return Image.fromarray(mixed.round().astype(np.uint8))


def outline(
    picture: Image.Image, box: Sequence[float], colour: tuple[int, int, int], width: int = 3
) -> None:
    """Draw a box (x, y, width, height) into a picture, with a light rim, so that it stands out."""
    draw = ImageDraw.Draw(picture)
    x, y = max(0.0, box[0]), max(0.0, box[1])
    right = min(picture.width, box[0] + box[2]) - 1
    bottom = min(picture.height, box[1] + box[3]) - 1
    draw.rectangle((x, y, right, bottom), outline=(255, 255, 255), width=width + 1)
    draw.rectangle((x, y, right, bottom), outline=colour, width=width)
