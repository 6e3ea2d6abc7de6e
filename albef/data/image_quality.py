"""What tells that a picture is blurred, dark, light or holds little, in four numbers.

They are taken from its brightness (Rec. 601 luma) in a copy of 128 to 255 pixels along the longer
side, so that they say the same of a picture at any larger size.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 128
"""Pixels of the copy along the longer side, or up to twice as many; a smaller picture is itself."""


class Quality(NamedTuple):
    """The four numbers, rounded."""

    sharpness: float
    """What one pixel in a hundred differs by from its four neighbours together, 0 to 1020 (the 99 %
    quantile of the Laplacian's size): a blurred picture has no sharp edge anywhere."""
    highlights: float
    """99 % quantile of the brightness, 0 to 255: a dark picture is dark where it is brightest."""
    shadows: float
    """5 % quantile of the brightness: a light picture is light where it is darkest."""
    entropy: float
    """Of the histogram of the brightness, in bits, 0 to 8."""


def image_quality(picture: Image.Image) -> Quality:
    """The :class:`Quality` of an RGB picture."""
    small = picture.reduce(max(1, max(picture.size) // SIDE)).convert("L")
    light = np.asarray(small, np.int16)
    wide = np.pad(light, 1, mode="edge")
    edges = 4 * light - wide[:-2, 1:-1] - wide[2:, 1:-1] - wide[1:-1, :-2] - wide[1:-1, 2:]
    shares = np.array(small.histogram()) / light.size
    shares = shares[shares > 0]
    entropy = -(shares * np.log2(shares)).sum()
    shadows, highlights = np.quantile(light, (0.05, 0.99))
    values = np.quantile(np.abs(edges), 0.99), highlights, shadows, entropy
    return Quality(*(round(float(value), 4) + 0.0 for value in values))
