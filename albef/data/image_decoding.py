"""Decoding of images from any origin to RGB: opened, checked against limits and normalized.

The header and the parts of the file are counted before anything is unpacked. This is the only
module that opens an image of unknown origin: training, evaluation, serving and ingest all use it.
"""

import contextlib
import io
import itertools
import math
import re
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from albef.data.image_formats import FORMATS, HAS_HEIC
from albef.data.rejection import Reason, RowError

# It warns once for each of the 65,535 tags that damaged EXIF may have.
warnings.filterwarnings("ignore", module=r"PIL\.")
if HAS_HEIC:
    import pillow_heif

    pillow_heif.register_heif_opener()
MAX_PIXELS = 2**26
"""Most pixels that are decoded; an image whose header claims more is rejected."""
MAX_SCANS, MAX_SCANNED = 100, 2**30
"""Most scans of a JPEG, and most pixels in all scans together. Each scan covers the whole image
again, and may take only a dozen bytes. A progressive JPEG from an encoder has about ten scans."""
_FEW_SCANS = MAX_SCANNED // MAX_PIXELS  # scans that any image may have
_MAX_SEGMENTS = 2000  # segments of a JPEG
# Pillow reads the following with Python code, at about a million steps per second.
_MAX_PARTS = 10_000  # chunks of a PNG beside one per KiB, blocks of a GIF before its image
_MAX_SKIPPED = 2**20  # bytes of a JPEG before its image that belong to no segment
_MAX_STEPS = 2**22  # pixels and bytes of a BMP with run lengths
_MAX_TAGS, _MAX_STRIPS = 1000, 2**18  # tags of a TIFF, strips or tiles
_PROFILE = 1000  # chunks that a color profile counts as; it unpacks to up to 1 MiB
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
# This matches the markers before a segment, and the end marker.
_MARKER = re.compile(rb"\xff+[^\x00\xff\x01\xd0-\xd8]")

_WHITE = (255, 255, 255, 255)
_ORIENTATION = 0x0112  # tag number in EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(RowError):
    """Error for an image that cannot be decoded; its message names the record."""

    def __init__(self, detail: str, reason: Reason = Reason.UNDECODABLE) -> None:
        super().__init__(reason, detail)


@contextlib.contextmanager
def opened(
    image: bytes, key: str = "", max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open an image of some formats with its header read and its size checked against the limit.

    Raises:
        ImageError: the image is damaged, its format is not supported, its header claims too many
            pixels or scans, or it has too many parts. Decoder errors within the ``with`` block
            raise it too.
    """
    name = f"the image of {key}" if key else "the image"
    most = f"at most {max_pixels / 2**20:g} megapixels are decoded"
    try:
        scans = _scans(image)
        _check_parts(image)
        with Image.open(io.BytesIO(image), formats=formats) as picture:
            size, pixels = f"{picture.width} x {picture.height}", picture.width * picture.height
            if pixels > max_pixels:  # The header is checked before anything is unpacked.
                raise ImageError(f"{name} has {size} pixels; {most}", Reason.TOO_MANY_PIXELS)
            limit = min(MAX_SCANS, MAX_SCANNED // max(pixels, 1))
            if scans > limit:
                detail = f"{name} has {scans} scans of {size} pixels; at most {limit} are decoded"
                raise ImageError(detail, Reason.TOO_MANY_PIXELS)
            is_runs = picture.format == "BMP" and picture.tile[0].codec_name == "bmp_rle"
            if is_runs and pixels + len(image) > _MAX_STEPS:
                detail = f"{name} has {size} pixels in run lengths; store it without"
                raise ImageError(detail, Reason.TOO_MANY_PIXELS)
            yield picture
    except (RowError, MemoryError):  # It is not the image's fault if memory is short.
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's message names a limit of its own.
        raise ImageError(f"{name} is too large; {most}", Reason.TOO_MANY_PIXELS) from None
    except UnidentifiedImageError:
        start = f"it starts with {image[:16]!r}" if image else "the file is empty"
        if image[4:8] == b"ftyp" and not HAS_HEIC:
            start += "; HEIC needs `pip install albef-pipeline[heic]`"
        detail = f"{name} cannot be decoded: {start}; supported: {', '.join(formats)}"
        raise ImageError(detail, Reason.NO_IMAGE) from None
    except Exception as error:  # Pillow's decoders raise many kinds of errors on damaged bytes.
        message = str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be decoded: {message}") from None


def decode(image: bytes, key: str = "") -> Image.Image:
    """Decode ``image`` to upright RGB with transparent parts in white.

    Of an animation, the first frame is decoded.

    Raises:
        ImageError: as in :func:`opened`.
    """
    with opened(image, key) as picture:
        return turned(flat(picture), orientation(picture))


def orientation(picture: Image.Image) -> int:
    """Return the camera's orientation from EXIF, 1 to 8; 1 if it is missing or invalid.

    Call this after the pixels are read: a PNG may hold EXIF at its end.
    """
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # A damaged EXIF block does not make the image unusable.
        return 1


def turned(picture: Image.Image, tag: int) -> Image.Image:
    """Return the image upright, given its :func:`orientation`."""
    return picture.transpose(_TURNS[tag]) if tag in _TURNS else picture


def flat(picture: Image.Image) -> Image.Image:
    """Convert an opened image to RGB; docs/reference/rejections.md has the rules.

    Raises:
        ValueError: the scale of its values is unknown, as for 32-bit values.
    """
    if picture.mode == "RGB" and "transparency" not in picture.info:
        picture.load()
        return picture
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, _WHITE)
        return Image.alpha_composite(paper, layer).convert("RGB")
    if picture.mode.startswith("I;16"):  # Pillow would clip these values at 255.
        high = np.asarray(picture, np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {picture.mode}) are not supported")
    return picture.convert("RGB")


def is_plain(picture: Image.Image) -> bool:
    """Return whether any decoder shows the image as :func:`decode` does.

    Such an image has one frame of RGB or gray and is stored upright.
    """
    return (
        picture.format in ("JPEG", "PNG", "WEBP")
        and picture.mode in ("RGB", "L")
        and "transparency" not in picture.info
        and not getattr(picture, "is_animated", False)
        and orientation(picture) not in _TURNS
    )


def unpacked(picture: Image.Image, image: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decode ``picture``, encoded as ``image``, to RGB (H, W, 3); shrink a JPEG while decoding.

    A JPEG keeps at least the given size. It is decoded at full size or at 1/2, 3/8, 1/4 or 1/8 of
    it, because 5/8 to 7/8 take longer than full size. Pillow gives the same pixels, more slowly.
    """
    import simplejpeg

    if picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
        # Pillow may overlook the damage that this decoder reports.
        with contextlib.suppress(ValueError):
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                image, min_height=height, min_width=width, min_factor=2
            )
            return pixels
    return np.asarray(flat(picture))


def smaller(picture: Image.Image, image: bytes, longest_side: int | None) -> Image.Image:
    """Decode ``picture``, encoded as ``image``, to RGB with a bounded longer side.

    The longer side has at most ``longest_side`` pixels; None keeps the size.
    """
    longer = max(picture.size)
    if longest_side is None or longer <= longest_side:
        return flat(picture)  # An image that is stored unchanged must pass the stricter decoder.
    scale = longest_side / longer
    width, height = (max(1, round(side * scale)) for side in picture.size)
    pixels = Image.fromarray(unpacked(picture, image, width, height))
    return pixels.resize((width, height), Image.Resampling.LANCZOS)


def check_shape(size: tuple[int, int], min_side: int, max_aspect_ratio: float) -> None:
    """Reject an image by its size (width, height) in pixels.

    Raises:
        ImageError: the image is too small or too elongated.
    """
    shorter, longer = sorted(size)
    pixels = f"the image has {size[0]} x {size[1]} pixels"
    if shorter < min_side:
        raise ImageError(f"{pixels}; the shorter side must have {min_side}", Reason.TOO_SMALL)
    if longer > max_aspect_ratio * shorter:
        ratio = math.floor(10 * longer / shorter) / 10
        detail = f"{pixels}: aspect ratio {ratio:g}; at most {max_aspect_ratio:g} is allowed"
        raise ImageError(detail, Reason.TOO_ELONGATED)


def _scans(image: bytes) -> int:
    """Return the number of scans of a JPEG by its markers up to its end; 0 if they can only be few.

    Raises:
        ValueError: the image has more segments than any image needs.
    """
    is_jpeg, has_many = image.startswith(b"\xff\xd8"), image.count(_SCAN) > _FEW_SCANS
    scans, skipped, at = 0, 0, 2
    for segment in itertools.count() if is_jpeg else ():
        marker = _MARKER.search(image, at)
        kind = marker[0][-2:] if marker else _END
        if not scans:
            skipped += (marker.end() if marker else len(image)) - at
        if skipped > _MAX_SKIPPED:
            raise ValueError(f"the JPEG has more than {_MAX_SKIPPED} bytes outside its segments")
        if marker is None or kind == _END or (kind == _SCAN and not has_many):
            break
        if segment == _MAX_SEGMENTS:
            raise ValueError(f"the JPEG has more than {_MAX_SEGMENTS} segments")
        scans += kind == _SCAN
        at = marker.end() + max(2, int.from_bytes(image[marker.end() : marker.end() + 2], "big"))
    return scans


def _check_parts(image: bytes) -> None:
    """Check that a PNG, GIF or TIFF has no more parts than any image needs.

    Raises:
        ValueError: it has more.
    """
    most = _MAX_PARTS
    if image.startswith(b"\x89PNG"):
        most += len(image) // 1024  # chunks with pixels
        parts = _chunks(image)
    elif image.startswith(b"GIF8"):
        parts = _blocks(image)
    elif image[:2] in (b"II", b"MM"):
        with contextlib.suppress(struct.error):  # Pillow reports a directory that is truncated.
            _check_tags(image)
        return
    else:
        return
    if sum(itertools.islice(parts, most + 1)) > most:
        raise ValueError(f"it has more than {most} chunks or blocks")


def _chunks(png: bytes) -> Iterator[int]:
    """Yield the weight of each chunk of a PNG."""
    at, kind = 8, b""
    while at < len(png) and kind != b"IEND":
        kind = png[at + 4 : at + 8]
        yield _PROFILE if kind == b"iCCP" else 1
        at += 12 + int.from_bytes(png[at : at + 4], "big")


def _blocks(gif: bytes) -> Iterator[int]:
    """Yield 1 for each block of a GIF before its first image, and for each byte between them."""
    at = 13 + (6 << (gif[10] & 7) if gif[10:11] >= b"\x80" else 0)
    while at < len(gif) and gif[at] not in b",;":
        if gif[at] == 0x21:  # an extension: its label, then blocks up to an empty one
            at += 2
            while at < len(gif) and gif[at]:
                yield 1
                at += 1 + gif[at]
        yield 1
        at += 1


def _check_tags(tiff: bytes) -> None:
    order, is_big = "<>"[tiff.startswith(b"M")], tiff[2:4] in (b"+\0", b"\0+")
    of_count, of_tag = ("Q", "HHQ8x") if is_big else ("H", "HHL4x")
    (start,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}L", tiff, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + of_count, tiff, start)
    if count > _MAX_TAGS:
        raise ValueError(f"the TIFF has {count} tags; at most {_MAX_TAGS} are read")
    for i in range(count):
        at = start + struct.calcsize(order + of_count) + i * struct.calcsize(order + of_tag)
        tag, _, values = struct.unpack_from(order + of_tag, tiff, at)
        if tag in (273, 324) and values > _MAX_STRIPS:  # offsets of strips and tiles
            raise ValueError(f"the TIFF has {values} strips; at most {_MAX_STRIPS} are read")
