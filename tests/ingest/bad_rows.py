"""Rows as the web has them: what is wrong with each, and what must become of it.

Every source can be run through them: it yields the bytes and captions as they are here, and ingest
does the rest by the values in :data:`LIMITS`.
"""

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from albef.data.refusal import Reason

LIMITS: dict[str, Any] = {
    "heldout": ["toy"],
    "max_megabytes": 0.25,
    "max_megapixels": 1,
    "min_side": 8,
    "max_aspect_ratio": 5.0,
    "max_caption_chars": 200,
    "format": "jpeg",
    "quality": 90,
    "near_distance": None,
    "min_yield": 0.0,
}
"""The section ``ingest`` that the outcomes below are of."""
CAPTION = "a red ball on the grass"


class BadRow(NamedTuple):
    """A row and what becomes of it.

    Attributes:
        name: of the row, which names its file.
        image: the bytes of its picture.
        caption: what is said of it.
        expected: why it is set aside, or the caption that it ends in a shard with.
    """

    name: str
    image: bytes
    caption: str
    expected: Reason | str


def gradient(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """A picture with something in it, RGB; another one for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture in a format of Pillow's."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def turned(held: int) -> bytes:
    """A JPEG of a camera that was held another way, by EXIF."""
    exif = Image.Exif()
    exif[0x0112] = held
    return encoded(gradient(), exif=exif)


def noise(width: int, height: int) -> bytes:
    """A picture that no format makes small."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(values), "PNG")


def _transparent(mode: str) -> Image.Image:
    layer = gradient().convert("RGBA")
    layer.putalpha(Image.new("L", layer.size, 0))
    return layer.convert(mode)


def _sixteen_bits() -> bytes:
    values = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    return encoded(Image.fromarray(values), "PNG")


def _animation(kind: str) -> bytes:
    first, *rest = (gradient(seed=seed) for seed in range(3))
    return encoded(first, kind, save_all=True, append_images=rest, duration=40)


def _pictures() -> list[tuple[str, bytes, Reason | str]]:
    whole = encoded(gradient(200, 150))
    png = encoded(gradient(), "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    return [
        ("empty", b"", Reason.NO_IMAGE),
        ("nuls", bytes(4096), Reason.NO_IMAGE),
        ("html", b"<!DOCTYPE html><html><body>404 not found</body></html>", Reason.NO_IMAGE),
        ("svg", svg, Reason.NO_IMAGE),
        ("svg_with_declaration", b'<?xml version="1.0"?>\n' + svg, Reason.NO_IMAGE),
        ("text", "not a picture, ü".encode(), Reason.NO_IMAGE),
        ("tiff", encoded(gradient(), "TIFF"), Reason.NO_IMAGE),
        ("truncated_jpeg", whole[: len(whole) // 2], Reason.UNDECODABLE),
        ("truncated_png", png[: len(png) // 2], Reason.UNDECODABLE),
        ("start_of_a_jpeg", whole[:20], Reason.NO_IMAGE),
        ("nuls_inside", whole[:400] + bytes(len(whole) - 400), Reason.UNDECODABLE),
        ("claims_too_much", png_header(20_000, 20_000), Reason.TOO_MANY_PIXELS),
        ("claims_everything", png_header(2**31 - 1, 2**31 - 1), Reason.TOO_MANY_PIXELS),
        ("claims_nothing", png_header(0, 0), Reason.NO_IMAGE),
        ("holds_nothing", png_header(40, 40), Reason.UNDECODABLE),
        ("large_file", noise(400, 300), Reason.TOO_MANY_BYTES),
        ("one_pixel", encoded(gradient(1, 1), "PNG"), Reason.TOO_SMALL),
        ("strip", encoded(gradient(2000, 9), "PNG"), Reason.TOO_ELONGATED),
        ("thirty_two_bits", encoded(gradient().convert("I"), "TIFF"), Reason.NO_IMAGE),
        ("jpeg", whole, CAPTION),
        ("png", png, CAPTION),
        ("webp", encoded(gradient(), "WEBP"), CAPTION),
        ("gif", encoded(gradient(), "GIF"), CAPTION),
        ("bmp", encoded(gradient(), "BMP"), CAPTION),
        ("gray", encoded(gradient().convert("L")), CAPTION),
        ("cmyk", encoded(gradient().convert("CMYK")), CAPTION),
        ("palette", encoded(gradient().convert("P"), "PNG"), CAPTION),
        ("two_colours", encoded(gradient().convert("1"), "PNG"), CAPTION),
        ("sixteen_bits", _sixteen_bits(), CAPTION),
        ("transparent", encoded(_transparent("RGBA"), "PNG"), CAPTION),
        ("transparent_gray", encoded(_transparent("LA"), "PNG"), CAPTION),
        ("transparent_colour", encoded(gradient(), "PNG", transparency=(9, 9, 9)), CAPTION),
        ("animated_gif", _animation("GIF"), CAPTION),
        ("animated_webp", _animation("WEBP"), CAPTION),
        ("animated_png", _animation("PNG"), CAPTION),
        ("on_its_side", turned(6), CAPTION),
        ("mirrored", turned(2), CAPTION),
        ("turned_nonsense", turned(77), CAPTION),
        ("damaged_exif", encoded(gradient(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), CAPTION),
        ("bytes_after_its_end", whole + b"<script>alert(1)</script>", CAPTION),
    ]


CAPTIONS: dict[str, tuple[str, Reason | str]] = {
    "no_caption": ("", Reason.NO_CAPTION),
    "spaces": (" \t\n ", Reason.NO_CAPTION),
    "marks": ("... !!! ---", Reason.NO_CAPTION),
    "only_tags": ("<p><img src='a.png'></p>", Reason.NO_CAPTION),
    "only_a_script": ("<script>track('a dog')</script>", Reason.NO_CAPTION),
    "ten_thousand": ("a dog " * 1700, Reason.CAPTION_TOO_LONG),
    "a_million": ("a" * 1_000_000, Reason.CAPTION_TOO_LONG),
    "letters_lost": ("caf\ufffd au lait", Reason.MALFORMED_ROW),
    "half_a_letter": ("a dog \ud83d", Reason.MALFORMED_ROW),
    "nul_inside": ("a dog\0 runs", "a dog runs"),
    "controls": ("a\x07 dog\x1b[31m runs\x7f", "a dog runs"),
    "line_breaks": (" a dog\r\n\truns ", "a dog runs"),
    "tags": ("<b>a dog</b> runs<br/>on <a href='http://x.test'>grass</a>", "a dog runs on grass"),
    "entities": ("a dog &amp; a cat &lt;b&gt;run&lt;/b&gt;", "a dog & a cat run"),
    "comment": ("a dog <!-- photo 17 --> runs", "a dog runs"),
    "script_after": ("a dog<script>x()</script> runs", "a dog runs"),
    "person": ("<person> with a dog", "<person> with a dog"),
    "less_than": ("3 < 4 dogs", "3 < 4 dogs"),
    "wrong_encoding": ("a cafÃ© in the sun", "a café in the sun"),
    "no_break_space": ("a dog\u00a0runs", "a dog runs"),
    "unseen": ("\ufeffa do\u200bg \u202eruns", "a dog runs"),
    "wide": ("ａ ｄｏｇ", "a dog"),
    "ligature": ("a ﬁsh", "a fish"),
    "other_script": ("犬が走る", "犬が走る"),
    "emoji": ("a 🐕 runs", "a 🐕 runs"),
}


def bad_rows() -> list[BadRow]:
    """All of them, each with a picture of its own where only the caption is bad."""
    of_pictures = [BadRow(name, image, CAPTION, expected) for name, image, expected in _pictures()]
    of_captions = [
        BadRow(f"caption_{name}", encoded(gradient(seed=100 + i), "PNG"), caption, expected)
        for i, (name, (caption, expected)) in enumerate(CAPTIONS.items())
    ]
    return of_pictures + of_captions
