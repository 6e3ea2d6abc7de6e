"""Four numbers that show if an image is blurred, dark, light or nearly empty.

They are computed from the brightness (Rec. 601 luma) in a copy with 128 to 255 pixels along the
longer side. An image therefore gets the same numbers at any larger size.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 128
"""Least pixels along the longer side of the copy, which has fewer than twice as many; a smaller
image is used as it is."""


class Quality(NamedTuple):
    """Rounded quality numbers of an image."""

    sharpness: float
    """99 % quantile of the absolute Laplacian, 0 to 1020. The Laplacian is the difference of a
    pixel from its four neighbours together: a blurred image has no sharp edge anywhere."""
    highlights: float
    """99 % quantile of the brightness, 0 to 255: a dark image is dark even in its brightest part.
    """
    shadows: float
    """5 % quantile of the brightness, 0 to 255: a light image is light even in its darkest part."""
    entropy: float
    """Entropy of the brightness histogram in bits, 0 to 8."""


def image_quality(picture: Image.Image) -> Quality:
    """Return the :class:`Quality` of an RGB image."""
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
