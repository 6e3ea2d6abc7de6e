"""Encoded pictures from anywhere to RGB: what is opened, held against bounds, and made plain.

The header is read and judged before anything is unpacked. This is the only place that opens a
picture of unknown origin: training, evaluation, serving and ingest all pass here.
"""

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from albef.data.refusal import Reason, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is opened, by its bytes; other decoders are never reached."""
MAX_PIXELS = 2**26
"""Most pixels that are decoded; a header that claims more is refused."""
MAX_SCANS, MAX_SCANNED = 100, 2**30
"""Most scans of a JPEG, and most pixels in all of them together: each scan goes over the whole
picture again, and may take a dozen bytes. An encoder's progressive JPEG has some ten."""
_FEW_SCANS = MAX_SCANNED // MAX_PIXELS  # that any picture may have
_MAX_SEGMENTS = 2000  # of a JPEG
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\x01\xd0-\xd8]")  # those before a segment, and the end

_WHITE = (255, 255, 255, 255)
_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Refused):
    """A picture that cannot be decoded; its text names the record."""

    def __init__(self, detail: str, reason: Reason = Reason.UNDECODABLE) -> None:
        super().__init__(reason, detail)


@contextlib.contextmanager
def opened(image: bytes, key: str = "", max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture with its header read and its size held against the bound.

    Raises:
        ImageError: it is damaged, of no format that is read, or its header claims too many
            pixels or scans; so do errors of the decoder within the ``with``.
    """
    name = f"the image of {key or '?'}"
    try:
        scans = _scans(image)
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            size, pixels = f"{picture.width} x {picture.height}", picture.width * picture.height
            if pixels > max_pixels:  # before anything is unpacked
                detail = f"{name} has {size} pixels; at most {max_pixels} are decoded"
                raise ImageError(detail, Reason.TOO_MANY_PIXELS)
            limit = min(MAX_SCANS, MAX_SCANNED // max(pixels, 1))
            if scans > limit:
                detail = f"{name} has {scans} scans of {size} pixels; at most {limit} are decoded"
                raise ImageError(detail, Reason.TOO_MANY_PIXELS)
            yield picture
    except Refused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large: {error}", Reason.TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        start = f"it begins with {image[:16]!r}" if image else "it is empty"
        detail = f"{name} cannot be decoded: {start}; {', '.join(FORMATS)} are read"
        raise ImageError(detail, Reason.NO_IMAGE) from None
    except Exception as error:  # Pillow's decoders raise whatever the bytes lead them to
        message = str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be decoded: {message}") from None


def decode(image: bytes, key: str = "") -> Image.Image:
    """``image`` as RGB, upright, its transparent parts white; of an animation the first frame.

    Raises:
        ImageError: as of :func:`opened`.
    """
    with opened(image, key) as picture:
        return turned(flat(picture), orientation(picture))


def orientation(picture: Image.Image) -> int:
    """How the camera was held, by EXIF: 1 to 8; 1 where it does not say, or says nonsense.

    To be asked after the pixels were read: a PNG may have it at its end.
    """
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the picture
        return 1


def turned(picture: Image.Image, tag: int) -> Image.Image:
    """The picture upright, from its :func:`orientation`."""
    return picture.transpose(_TURNS[tag]) if tag in _TURNS else picture


def flat(picture: Image.Image) -> Image.Image:
    """An opened picture as RGB, whatever its mode: see docs/explanation/what-ingest-rejects.md.

    Raises:
        ValueError: its values have no known scale, as those of 32 bits.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        picture.load()
        return picture
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, _WHITE)
        return Image.alpha_composite(paper, layer).convert("RGB")
    if picture.mode.startswith("I;16"):  # Pillow would cut them off at 255
        high = np.asarray(picture, np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"its values are of 32 bits (mode {picture.mode})")
    return picture.convert("RGB")


def is_plain(picture: Image.Image) -> bool:
    """Whether any decoder shows it as :func:`decode` does: one frame of RGB or gray, upright."""
    return (
        picture.format in ("JPEG", "PNG", "WEBP")
        and picture.mode in ("RGB", "L")
        and "transparency" not in picture.info
        and not getattr(picture, "is_animated", False)
        and orientation(picture) not in _TURNS
    )


def unpacked(picture: Image.Image, image: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """``picture``, encoded as ``image``, as RGB (H, W, 3); a JPEG no larger than need be.

    A JPEG has at least the given size: the whole or 1/2, 3/8, 1/4, 1/8 of it, as 5/8 to 7/8 take
    longer than the whole. Pillow gives the same pixels, more slowly.
    """
    import simplejpeg

    if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
        with contextlib.suppress(ValueError):  # of damage that Pillow may overlook
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                image, min_height=height, min_width=width, min_factor=2
            )
            return pixels
    return np.asarray(flat(picture))


def smaller(picture: Image.Image, image: bytes, longest_side: int | None) -> Image.Image:
    """``picture``, encoded as ``image``, as RGB with its longer side at most ``longest_side``."""
    longer = max(picture.size)
    if longest_side is None or longer <= longest_side:
        return flat(picture)  # what is stored as it is must please the stricter decoder
    scale = longest_side / longer
    width, height = (max(1, round(side * scale)) for side in picture.size)
    pixels = Image.fromarray(unpacked(picture, image, width, height))
    return pixels.resize((width, height), Image.Resampling.LANCZOS)


def check_shape(size: tuple[int, int], min_side: int, max_aspect_ratio: float) -> None:
    """Refuse a picture by its size (width, height) in pixels.

    Raises:
        ImageError: it is too small or too elongated.
    """
    shorter, longer = sorted(size)
    pixels = f"the image has {size[0]} x {size[1]} pixels"
    if shorter < min_side:
        raise ImageError(f"{pixels}; the shorter side must have {min_side}", Reason.TOO_SMALL)
    if longer > max_aspect_ratio * shorter:
        ratio = math.floor(10 * longer / shorter) / 10
        detail = f"{pixels}: one side is {ratio:g} times the other, at most {max_aspect_ratio:g}"
        raise ImageError(detail, Reason.TOO_ELONGATED)


def _scans(image: bytes) -> int:
    """The scans of a JPEG, by its markers up to its end; 0 where they can only be few.

    Raises:
        ValueError: it has more segments than any picture needs.
    """
    is_jpeg, has_many = image.startswith(b"\xff\xd8"), image.count(_SCAN) > _FEW_SCANS
    scans, at = 0, 2
    for segment in itertools.count() if is_jpeg else ():
        marker = _MARKER.search(image, at)
        kind = marker[0][-2:] if marker else _END
        if marker is None or kind == _END or (kind == _SCAN and not has_many):
            break
        if segment == _MAX_SEGMENTS:
            raise ValueError(f"it has more than {_MAX_SEGMENTS} segments")
        scans += kind == _SCAN
        at = marker.end() + max(2, int.from_bytes(image[marker.end() : marker.end() + 2], "big"))
    return scans
