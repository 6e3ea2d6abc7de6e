"""Transforms of encoded images to arrays: training augmentation and evaluation.

The module needs numpy and Pillow. The faster path of training imports torch where it is used. All
randomness comes from the generator that is passed.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field, model_validator

from albef.config import Section
from albef.data.image_decoding import (
    ImageError,
    decode,
    flat,
    opened,
    orientation,
    turned,
    unpacked,
)
from albef.data.rejection import Reason

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean of each channel, for values from 0 to 1."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's standard deviation of each channel."""
_MEAN, _STD = (np.array(each, np.float32)[:, None, None] for each in (MEAN, STD))
SCALE, SHIFT = 1 / (255 * _STD), _MEAN / _STD
"""Factor for values from 0 to 255, and the value to subtract afterwards; each (3, 1, 1)."""

_RATIO = (3 / 4, 4 / 3)  # width to height of a random crop
_OPERATIONS = 2  # operations of RandAugment per image
_FILL = (128, 128, 128)  # fills the area that RandAugment uncovers

Crop = Annotated[float, Field(gt=0, le=1)]


class AugmentConfig(Section):
    """Augmentation of training images; it must not make captions false."""

    flip: bool = False
    """Mirror half of the images. This makes captions with "left" and "right" false."""
    crop: tuple[Crop, Crop] = (0.85, 1.0)
    """Minimum and maximum share of the area that a random crop keeps; [1, 1] disables cropping."""
    randaugment: Annotated[int, Field(ge=0, le=10)] = 0
    """Magnitude of RandAugment's two operations, 0 to 10; 0 disables them. The paper uses 7."""

    @property
    def keeps_pixels(self) -> bool:
        """Return whether an image has the same pixels each time, as frozen encoders need."""
        return not self.flip and self.crop == (1.0, 1.0) and not self.randaugment

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.crop[0] > self.crop[1]:
            raise ValueError(f"crop starts at {self.crop[0]:g}, above its end {self.crop[1]:g}")
        return self


@dataclass(frozen=True)
class Transform:
    """Random crop, flip and RandAugment, as far as the dataset's captions allow, to a side S.

    The result is not normalised yet, so passing it between processes moves a quarter of the bytes:
    see :func:`albef.normalize_pixels`.
    If the crop stays large enough for the result, a JPEG is decoded at half of its size or less.
    """

    augment: AugmentConfig
    image_size: int

    def __call__(self, image: bytes, rng: np.random.Generator, key: str = "") -> NDArray[np.uint8]:
        """Return ``image`` as (3, S, S).

        Raises:
            ImageError: the image cannot be decoded.
        """
        with opened(image, key) as picture:
            width, height = picture.size
            box = (0, 0, width, height)
            if self.augment.crop != (1.0, 1.0):
                box = random_box(width, height, self.augment.crop, rng)
            if min(box[2] - box[0], box[3] - box[1]) > self.image_size:
                pixels = _shrunk(picture, image, box, self.image_size)
            else:
                pixels = np.asarray(_square(flat(picture), self.image_size, box))
        if self.augment.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.augment.randaugment:
            plain = Image.fromarray(pixels)
            pixels = np.asarray(randaugment(plain, self.augment.randaugment, rng))
        return pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Evaluate:
    """Plain resize to a square of side S."""

    image_size: int

    def __call__(self, image: bytes, key: str = "") -> NDArray[np.float32]:
        """Return ``image`` as (3, S, S); ``key`` names the record in errors.

        Raises:
            ImageError: the image cannot be decoded.
        """
        return normalised(self._resized(image, key))

    def pixels(self, image: bytes, key: str = "") -> NDArray[np.uint8]:
        """Return the image before normalisation, a quarter as large to pass between processes."""
        return np.asarray(self._resized(image, key)).transpose(2, 0, 1)

    def _resized(self, image: bytes, key: str) -> Image.Image:
        picture = decode(image, key)
        return _square(picture, self.image_size, (0, 0, *picture.size))


class Bounds(NamedTuple):
    """Limits of an encoded image: pixels, pixels of its longest side, and formats."""

    pixels: int
    side: int
    formats: tuple[str, ...]


class Square(NamedTuple):
    """An image at a model's input size, for which :class:`Evaluate` returns the same as for it."""

    pixels: NDArray[np.uint8]
    """RGB (S, S, 3)."""
    size: tuple[int, int]
    """Width and height of the encoded image."""
    thumbnail: bytes
    """Small JPEG for display, if it was requested."""


def squares(image: bytes, key: str, bounds: Bounds, side: int, thumbnail: int) -> list[Square]:
    """Return an encoded image at a model's input size S, as a list of one.

    ``key`` names the record in errors. ``thumbnail`` is the longest side of one, or 0.

    Raises:
        ImageError: the image cannot be decoded, or exceeds its bounds.
    """
    with opened(image, key, bounds.pixels, bounds.formats) as picture:
        size = picture.size
        if max(size) > bounds.side:  # The memory of resizing grows with the longest side.
            text = f"the image of {key} has a side of {max(size)} pixels, above {bounds.side}"
            raise ImageError(text, Reason.TOO_MANY_PIXELS)
        upright = turned(flat(picture), orientation(picture))
        square = np.asarray(_square(upright, side, (0, 0, *upright.size)))
        small = io.BytesIO()
        if thumbnail:
            upright.thumbnail((thumbnail, thumbnail))
            upright.save(small, "JPEG", quality=85)
        return [Square(square, size, small.getvalue())]


def normalised(picture: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an RGB image as (3, H, W), normalised with CLIP's mean and standard deviation."""
    values = np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")
    values *= SCALE
    values -= SHIFT
    return values


def random_box(
    width: int, height: int, crop: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return a box (left, top, right, bottom) with a random share of the area and a random shape.

    After ten draws that do not fit, it is the largest allowed shape in the center.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*crop)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * _RATIO[1])))
    h = max(1, min(height, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _square(picture: Image.Image, side: int, box: tuple[float, float, float, float]) -> Image.Image:
    if box == (0, 0, *picture.size) and picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=box)


def _shrunk(
    picture: Image.Image, image: bytes, box: tuple[int, int, int, int], side: int
) -> NDArray[np.uint8]:
    """Return the box of an opened image, whose bytes are ``image``, resized to RGB (S, S, 3).

    Pillow gives the same result apart from rounding, but takes three times as long. For an image as
    small as the result, both take the same time.
    """
    import torch
    from torch.nn.functional import interpolate

    left, top, right, bottom = box
    width, height = picture.size
    pixels = unpacked(
        picture,
        image,
        math.ceil(side * width / (right - left)),
        math.ceil(side * height / (bottom - top)),
    )
    across, down = pixels.shape[1] / width, pixels.shape[0] / height
    rows = slice(round(top * down), round(bottom * down))
    columns = slice(round(left * across), round(right * across))
    crop = np.require(pixels[rows, columns], requirements="W")  # torch warns about read-only memory
    # The strides are channels-last, which is faster.
    batch = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)
    small = interpolate(batch, (side, side), mode="bicubic", antialias=True)
    result: NDArray[np.uint8] = small[0].permute(1, 2, 0).numpy()
    return result


def randaugment(picture: Image.Image, magnitude: int, rng: np.random.Generator) -> Image.Image:
    """Apply two operations drawn with replacement, each with probability 0.5.

    No operation changes colours, since captions name them. The magnitude, 1 to 10, sets the
    strength, the angle and the distance moved.
    """
    for name in rng.choice(len(_AUGMENTATIONS), _OPERATIONS):
        if rng.random() < 0.5:
            sign = 1 if rng.random() < 0.5 else -1
            picture = _AUGMENTATIONS[name](picture, magnitude / 10, sign)
    return picture


def _moved(
    picture: Image.Image, matrix: tuple[float, float, float, float, float, float]
) -> Image.Image:
    """Return the image transformed: output (x, y) shows input (ax + by + c, dx + ey + f)."""
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BILINEAR,
        fillcolor=_FILL,
    )


# Each operation takes an image, a strength up to 1 and a sign.
_AUGMENTATIONS: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda p, m, s: p,
    lambda p, m, s: ImageOps.autocontrast(p),
    lambda p, m, s: ImageOps.equalize(p),
    lambda p, m, s: ImageEnhance.Brightness(p).enhance(0.1 + 1.8 * m),
    lambda p, m, s: ImageEnhance.Sharpness(p).enhance(0.1 + 1.8 * m),
    lambda p, m, s: _moved(p, (1, s * 0.3 * m, 0, 0, 1, 0)),
    lambda p, m, s: _moved(p, (1, 0, 0, s * 0.3 * m, 1, 0)),
    lambda p, m, s: _moved(p, (1, 0, s * 10 * m, 0, 1, 0)),
    lambda p, m, s: _moved(p, (1, 0, 0, 0, 1, s * 10 * m)),
    lambda p, m, s: p.rotate(s * 30 * m, Image.Resampling.BILINEAR, fillcolor=_FILL),
)
