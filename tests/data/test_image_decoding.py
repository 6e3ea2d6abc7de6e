"""What is refused of a picture before it is decoded."""

import io
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from albef.data import image_decoding
from albef.data.image_decoding import ImageError, decode
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


def test_scans_of_a_jpeg_are_bounded_by_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode(jpeg(100)).size == (64, 48)
    with pytest.raises(ImageError, match="has 101 scans of 64 x 48 pixels; at most 100") as caught:
        decode(jpeg(101))
    assert caught.value.reason == Reason.TOO_MANY_PIXELS
    monkeypatch.setattr(image_decoding, "MAX_SCANNED", 30 * 64 * 48)
    decode(jpeg(30))
    with pytest.raises(ImageError, match="has 31 scans of 64 x 48 pixels; at most 30"):
        decode(jpeg(31))


def test_what_only_looks_like_scans_is_not_counted() -> None:
    comment = b"\xff\xfe\xff\x00" + b"\xff\xda" * 0x7F7F
    decode(jpeg(30, before=comment))
    decode(jpeg(30) + b"\xff\xda" * 200)  # a film or another picture behind its end


@pytest.mark.parametrize("side", [10_000, 14_000, 20_000])  # Pillow has limits of its own.
def test_the_limit_of_pixels_is_the_one_that_a_message_names(side: int) -> None:
    image, message = png_header(side, side), "; at most 16 megapixels are decoded"
    with (
        pytest.raises(ImageError, match=message) as caught,
        image_decoding.opened(image, "a", 2**24),
    ):
        pass
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


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
    with pytest.raises(ImageError, match=r"albef-pipeline\[heic\]"):
        decode(b"\0\0\0\x20ftypheic" + bytes(64))


def bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP with run lengths (RLE8) and a black palette."""
    start = 54 + 1024
    header = struct.pack("<IHHIIiiHHIIiiII", start + len(runs), 0, 0, start, 40, width, height,
                         1, 8, 1, len(runs), 0, 0, 256, 0)  # fmt: skip
    return b"BM" + header + bytes(1024) + runs


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files of at most 16 MiB that made Pillow work for seconds, and what is said of each."""
    png, gif = (encoded(gradient(8, 8), kind) for kind in ("PNG", "GIF"))
    frame, packed = gif.index(b",\0\0\0\0"), b"a\0\0" + zlib.compress(bytes(2**20 - 9))
    tiles = [(256, 4, 1, 4000), (257, 4, 1, 4000), (324, 4, 2_000_000, 8)]
    return {
        "short lines": (bmp(65535, 256, b"\1\0\0\0" * 250), "in run lengths"),
        "no progress": (bmp(4000, 4000, bytes(2**24 - 4096)), "in run lengths"),
        "comments": (gif[:frame] + b"!\xfe\1x\0" * 3_000_000 + gif[frame:], "10000 chunks or"),
        "bytes between blocks": (gif[:frame] + b"x" * 2**24 + gif[frame:], "10000 chunks or"),
        "chunks": (png[:33] + _chunk(b"aaAa", b"") * 1_300_000 + png[33:], "chunks or blocks"),
        "profiles": (png[:33] + _chunk(b"iCCP", packed) * 9000 + png[33:], "chunks or blocks"),
        "segments": (jpeg(10, before=b"\xff\xfe\0\2" * 2001), "more than 2000 segments"),
        "no segments": (jpeg(10)[:2] + bytes(2**24), "outside its segments"),
        "tags": (tiff(*[(999, 99, 1, 0)] * 2000), "has 2000 tags"),
        "tiles": (tiff(*tiles), "has 2000000 strips"),
        "tags of a BigTIFF": (b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8, "tags; at most"),
    }


@pytest.mark.parametrize("name", hostile())
def test_what_a_decoder_would_do_is_counted_first(name: str) -> None:
    image, message = hostile()[name]
    with pytest.raises(ImageError, match=message):
        decode(image)


def test_exif_of_many_tags_writes_no_log(capfd: pytest.CaptureFixture[str]) -> None:
    tags = tiff(*((tag, 7, 10**6, 2**31) for tag in range(5000)))
    segment = b"\xff\xe1" + struct.pack(">H", len(tags) + 8) + b"Exif\0\0" + tags
    code = (
        "import sys; from albef.data.image_decoding import decode; decode(sys.stdin.buffer.read())"
    )
    subprocess.run([sys.executable, "-c", code], input=jpeg(10, before=segment), check=True)
    assert capfd.readouterr().err == ""


def test_a_format_that_is_not_allowed_is_named() -> None:
    image = encoded(gradient(), "BMP")
    with (
        pytest.raises(ImageError, match="supported: JPEG, PNG") as caught,
        image_decoding.opened(image, formats=("JPEG", "PNG")),
    ):
        pass
    assert caught.value.reason == Reason.NO_IMAGE
