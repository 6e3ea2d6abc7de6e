"""What is refused of a picture before it is decoded."""

import io

import pytest
from PIL import Image

from albef.data import image_decoding
from albef.data.image_decoding import ImageError, decode
from albef.data.rejection import Reason
from tests.ingest.bad_rows import gradient, png_header


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


def test_segments_of_a_jpeg_are_bounded() -> None:
    with pytest.raises(ImageError, match="has more than 2000 segments"):
        decode(jpeg(10, before=b"\xff\xfe\x00\x02" * 2001))


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
    monkeypatch.setattr(image_decoding, "_HAS_HEIC", False)
    with pytest.raises(ImageError, match=r"albef-pipeline\[heic\]"):
        decode(b"\0\0\0\x20ftypheic" + bytes(64))
