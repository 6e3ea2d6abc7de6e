"""What is refused of a picture before it is decoded."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from albef.data import image_decoding
from albef.data.image_decoding import ImageError, decode, opened
from albef.data.rejection import Reason
from tests.ingest.bad_rows import _chunk, encoded, gradient, png_header


def jpeg(scans: int, size: tuple[int, int] = (64, 48), before: bytes = b"") -> bytes:
    """A progressive JPEG with its last scan said again, and segments put before the first."""
    file = io.BytesIO()
    gradient(*size).save(file, "JPEG", progressive=True)
    held = file.getvalue()
    last = held[held.rindex(b"\xff\xda") : -2]
    more = scans - held.count(b"\xff\xda")
    return held[:2] + before + held[2:-2] + last * more + held[-2:]


def refused(image: bytes, message: str, **options: Any) -> Reason:
    """The reason for which an image is refused."""
    with pytest.raises(ImageError, match=message) as caught, opened(image, **options):
        pass
    return caught.value.reason


def test_scans_of_a_jpeg_are_bounded_by_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(jpeg(100)).size == (64, 48)
    message = "has 101 scans of 64 x 48 pixels; at most 100"
    assert refused(jpeg(101), message) == Reason.TOO_MANY_PIXELS
    monkeypatch.setattr(image_decoding, "MAX_SCANNED", 30 * 64 * 48)
    decode(jpeg(30))
    refused(jpeg(31), "has 31 scans of 64 x 48 pixels; at most 30")


def test_what_only_looks_like_scans_is_not_counted() -> None:
    comment = b"\xff\xfe\xff\x00" + b"\xff\xda" * 0x7F7F
    decode(jpeg(30, before=comment))
    decode(jpeg(30) + b"\xff\xda" * 200)  # a film or another picture behind its end


def test_the_limit_of_pixels_is_the_one_that_a_message_names() -> None:
    for side in (10_000, 14_000, 20_000):  # Pillow has limits of its own.
        message = "; at most 16 megapixels are decoded"
        reason = refused(png_header(side, side), message, max_pixels=2**24)
        assert reason == Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "HEIF"])
def test_formats_of_scanners_and_phones(form: str) -> None:
    if form == "HEIF":
        pytest.importorskip("pillow_heif")
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (64, 48), (250, 0, 0)).save(file, form, exif=exif)
    image = decode(file.getvalue())
    red, green, _ = image.getpixel((5, 5))
    size = (64, 48) if form == "HEIF" else (48, 64)  # HEIC has its own turns beside EXIF
    assert (image.mode, image.size, red > 200 > 50 > green) == ("RGB", size, True)


def test_heic_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "HAS_HEIC", False)
    refused(b"\0\0\0\x20ftypheic" + bytes(64), r"albef-pipeline\[heic\]")


def bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP with run lengths (RLE8) and a black palette."""
    start = 54 + 1024
    header = struct.pack("<IHHIIiiHHIIiiII", start + len(runs), 0, 0, start, 40, width, height,
                         1, 8, 1, len(runs), 0, 0, 256, 0)  # fmt: skip
    return b"BM" + header + bytes(1024) + runs


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory


def hostile() -> Iterator[tuple[bytes, str]]:
    """Files of at most 16 MiB that made Pillow work for seconds, and what is said of each."""
    png, gif = (encoded(gradient(8, 8), kind) for kind in ("PNG", "GIF"))
    frame, packed = gif.index(b",\0\0\0\0"), b"a\0\0" + zlib.compress(bytes(2**20 - 9))
    yield bmp(65535, 256, b"\1\0\0\0" * 250), "in run lengths"
    yield bmp(4000, 4000, bytes(2**24 - 4096)), "in run lengths"
    yield gif[:frame] + b"!\xfe\1x\0" * 3_000_000 + gif[frame:], "10000 chunks or"
    yield gif[:frame] + b"x" * 2**24 + gif[frame:], "10000 chunks or"
    yield png[:33] + _chunk(b"aaAa", b"") * 1_300_000 + png[33:], "chunks or blocks"
    yield png[:33] + _chunk(b"iCCP", packed) * 9000 + png[33:], "chunks or blocks"
    yield jpeg(10, before=b"\xff\xfe\0\2" * 2001), "more than 2000 segments"
    yield jpeg(10)[:2] + bytes(2**24), "outside its segments"
    yield tiff(*[(999, 99, 1, 0)] * 2000), "has 2000 tags"
    tiles = (256, 4, 1, 4000), (257, 4, 1, 4000), (324, 4, 2_000_000, 8)
    yield tiff(*tiles), "has 2000000 strips"
    yield b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8, "tags; at most"  # a BigTIFF


def test_what_a_decoder_would_do_is_counted_first() -> None:
    for image, message in hostile():
        refused(image, message)


def test_exif_of_many_tags_writes_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    tags = tiff(*((tag, 7, 10**6, 2**31) for tag in range(5000)))
    segment = b"\xff\xe1" + struct.pack(">H", len(tags) + 8) + b"Exif\0\0" + tags
    code = (
        "import sys; from albef.data.image_decoding import decode; decode(sys.stdin.buffer.read())"
    )
    subprocess.run([sys.executable, "-c", code], input=jpeg(10, before=segment), check=True)
    assert capfd.readouterr().err == ""


def test_a_format_that_is_not_allowed_is_named() -> None:
    image, formats = encoded(gradient(), "BMP"), ("JPEG", "PNG")
    assert refused(image, "supported: JPEG, PNG", formats=formats) == Reason.NO_IMAGE
