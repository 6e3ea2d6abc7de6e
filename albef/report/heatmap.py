"""Heat maps and boxes drawn over images, with Pillow alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CORRECT, WRONG, HOTTEST = (22, 138, 78), (208, 48, 40), (27, 33, 48)
"""Colours of the correct box, of a wrong one, and of the box around the hottest region."""
# Colours by heat from 0 to 1. Cold areas show the image.
_HEATS = (0.0, 0.35, 0.6, 0.8, 1.0)
_COLOURS = ((66, 92, 214), (46, 176, 190), (246, 212, 70), (240, 130, 42), (200, 28, 44))
_STRONGEST = 0.8  # opacity of the colour at the peak


def overlay(image: Image.Image, heat: NDArray[Any], peak: float | None = None) -> Image.Image:
    """Return an RGB image under a heat map (n, n) with values from 0.

    ``peak`` is the hottest value, by default the map's own maximum. Without heat, the image is
    returned unchanged.
    """
    peak = float(heat.max()) if peak is None else peak
    if peak <= 0:
        return image.copy()
    small = Image.fromarray((heat / peak).astype(np.float32))
    large = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    channels = [np.interp(large, _HEATS, channel) for channel in zip(*_COLOURS, strict=True)]
    share = _STRONGEST * large[..., None] ** 0.7
    mixed = np.asarray(image, np.float32) * (1 - share) + np.stack(channels, -1) * share
    return Image.fromarray(mixed.round().astype(np.uint8))


def outline(
    image: Image.Image, box: Sequence[float], colour: tuple[int, int, int], width: int = 3
) -> None:
    """Draw a box (x, y, width, height) into an image, with a light rim for contrast."""
    draw = ImageDraw.Draw(image)
    x, y = max(0.0, box[0]), max(0.0, box[1])
    right = min(image.width, box[0] + box[2]) - 1
    bottom = min(image.height, box[1] + box[3]) - 1
    draw.rectangle((x, y, right, bottom), outline=(255, 255, 255), width=width + 1)
    draw.rectangle((x, y, right, bottom), outline=colour, width=width)
