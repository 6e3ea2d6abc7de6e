"""Made-up pictures that take as long as photographs do."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def blurred(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int] = (16, 12)
) -> Image.Image:
    """So many cells, across and down, of any colour, that run into each other."""
    coarse = rng.integers(0, 256, (*cells[::-1], 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pixels (480, 640, 3) with the noise of a camera."""
    smooth = np.asarray(blurred(rng, (640, 480)), np.int16)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
