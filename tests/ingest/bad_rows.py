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

from albef.data.rejection import Reason

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
    """A row, and why it is set aside, or the caption that it ends in a shard with."""

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
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _ihdr(width: int, height: int, bits: int = 8, colours: int = 2) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))


def png_header(width: int, height: int) -> bytes:
    rest = _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _ihdr(width, height) + rest


def _put(image: bytes, at: int, data: bytes, over: int | None = None) -> bytes:
    """A file with bytes written over those at a place, or over as many as are named."""
    return image[:at] + data + image[at + (len(data) if over is None else over) :]


def turned(held: int) -> bytes:
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
        ("svg_with_declaration", b'<?xml version="1.0"?>\n' + svg, Reason.NO_IMAGE),
        ("tiff", encoded(gradient(), "TIFF"), CAPTION),
        ("ppm", encoded(gradient().resize((32, 32)), "PPM"), Reason.NO_IMAGE),
        ("truncated_jpeg", whole[: len(whole) // 2], Reason.UNDECODABLE),
        ("claims_too_much", png_header(20_000, 20_000), Reason.TOO_MANY_PIXELS),
        ("claims_nothing", png_header(0, 0), Reason.NO_IMAGE),
        ("large_file", noise(400, 300), Reason.TOO_MANY_BYTES),
        ("one_pixel", encoded(gradient(1, 1), "PNG"), Reason.TOO_SMALL),
        ("strip", encoded(gradient(2000, 9), "PNG"), Reason.TOO_ELONGATED),
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
        ("animated_gif", _animation("GIF"), CAPTION),
        ("animated_webp", _animation("WEBP"), CAPTION),
        ("animated_png", _animation("PNG"), CAPTION),
        ("on_its_side", turned(6), CAPTION),
        ("bytes_after_its_end", whole + b"<script>alert(1)</script>", CAPTION),
    ]


def _exif(count: int, value: bytes) -> bytes:
    """An EXIF block with so many values for the orientation; the next block is itself."""
    orientation = struct.pack("<HHHI", 1, 0x0112, 3, count) + value
    return b"Exif\0\0II*\0\x08\0\0\0" + orientation + struct.pack("<I", 8)


def _odd_pictures() -> list[tuple[str, bytes, Reason | str]]:
    """Pictures as no program should write them, and files that take their names."""
    jpeg, png, gif, bmp = (encoded(gradient(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP"))
    palette = encoded(gradient().convert("P"), "PNG")
    moving = _animation("PNG")
    several = encoded(gradient(), "MPO", save_all=True, append_images=[gradient()])
    frame = gif.index(b",\0\0\0\0")
    endless, on_its_side = _exif(2**32 - 1, bytes(4)), _exif(1, b"\6\0\0\0")
    bomb = b"x\0\0" + zlib.compress(bytes(2**26))
    tables, scan = jpeg.index(b"\xff\xc4"), jpeg.index(b"\xff\xda")
    marks = b"\xff\xfe\0\x03x"  # a comment of one letter
    sixteen = _chunk(
        b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(160)) * 2 for _ in range(40)))
    )
    canvas = encoded(gradient().convert("RGBA"), "WEBP", exif=on_its_side[6:])
    canvas = _put(canvas, canvas.index(b"VP8X") + 12, b"\xff" * 6)
    frames = _chunk(b"acTL", b"\xff" * 4 + bytes(4))
    veils = encoded(gradient().convert("P"), "PNG", transparency=bytes(range(256)))
    return [
        # what unpacks to much, or is much
        ("packed_profile", _put(png, 33, _chunk(b"iCCP", bomb), 0), Reason.UNDECODABLE),
        ("packed_text", _put(png, 33, _chunk(b"zTXt", bomb), 0), Reason.UNDECODABLE),
        ("many_texts", _put(png, 33, _chunk(b"tEXt", b"k\0v") * 5000, 0), CAPTION),
        ("many_comments", _put(jpeg, 2, marks * 5000, 0), Reason.UNDECODABLE),
        ("filled_up", _put(jpeg, 2, b"\xff" * 60_000, 0), CAPTION),
        # how it was held, said in odd ways
        ("orientation_without_end", encoded(gradient(), exif=endless), CAPTION),
        ("orientation_at_its_end", _put(png, -12, _chunk(b"eXIf", on_its_side[6:]), 0), CAPTION),
        # JPEG
        ("several_pictures", several, CAPTION),
        ("without_tables", jpeg[:tables] + jpeg[scan:], CAPTION),
        # GIF
        ("frame_elsewhere", _put(gif, frame + 1, b"\xf0\xff\xf0\xff"), Reason.TOO_MANY_PIXELS),
        ("codes_too_long", _put(gif, frame + 10, b"\x0f"), Reason.UNDECODABLE),
        # PNG
        ("frames_without_end", _put(moving, moving.index(b"acTL") - 4, frames), CAPTION),
        ("no_palette", palette[:33] + palette[palette.index(b"IDAT") - 4 :], Reason.UNDECODABLE),
        ("palette_with_veils", veils, CAPTION),
        ("sixteen_bits_of_four", png[:8] + _ihdr(40, 40, 16, 6) + sixteen, CAPTION),
        ("another_start", _put(png, 33, _ihdr(9000, 9000), 0), Reason.TOO_MANY_PIXELS),
        # WebP and BMP
        ("canvas_without_end", canvas, Reason.TOO_MANY_PIXELS),
        ("below_everything", _put(bmp, 22, struct.pack("<i", -(2**31))), Reason.TOO_MANY_PIXELS),
        ("no_bits", _put(bmp, 28, b"\0\0"), Reason.UNDECODABLE),
    ]


CAPTIONS: dict[str, tuple[str, Reason | str]] = {
    "no_caption": ("", Reason.NO_CAPTION),
    "invisible": ("\u200b\u0001", Reason.NO_CAPTION),
    "only_tags": ("<p><img src='a.png'></p>", Reason.NO_CAPTION),
    "a_million": ("a" * 1_000_000, Reason.CAPTION_TOO_LONG),
    "letters_lost": ("caf\ufffd au lait", Reason.MALFORMED_ROW),
    "half_a_letter": ("a dog \ud83d", Reason.MALFORMED_ROW),
    "nul_inside": ("a dog\0 runs", "a dog runs"),
    "tags": ("<b>a dog</b> runs<br/>on <a href='http://x.test'>grass</a>", "a dog runs on grass"),
    "entities": ("a dog &amp; a cat &lt;b&gt;run&lt;/b&gt;", "a dog & a cat run"),
    "script_after": ("a dog<script>x()</script> runs", "a dog runs"),
    "person": ("<person> with a dog", "<person> with a dog"),
    "less_than": ("3 < 4 dogs", "3 < 4 dogs"),
    "wrong_encoding": ("a cafÃ© in the sun", "a café in the sun"),
    "unseen": ("\ufeffa do\u200bg \u202eruns", "a dog runs"),
    "other_script": ("犬が走る", "犬が走る"),
    "fillers": ("\u3164\uffa0\u115f", Reason.NO_CAPTION),
    "entity_of_nothing": ("a &#0; dog", Reason.MALFORMED_ROW),
    "two_hundred_and_one": ("a" * 199 + " b", Reason.CAPTION_TOO_LONG),
    "other_spaces": ("a\x0bdog\x0cruns\x1con\u2028grass", "a dog runs on grass"),
    "marks": ("a" + "\u0301\u0327" * 4000, Reason.MALFORMED_ROW),  # sorting them would take long
    "few_marks": ("xe\u0301\u0327\u0301", "x\u0229\u0301\u0301"),
    "entities_of_entities": ("a &amp;amp;lt;b&amp;gt; dog", "a dog"),
}


def bad_rows() -> list[BadRow]:
    """All of them, each with a picture of its own where only the caption is bad."""
    of_pictures = [
        BadRow(name, image, CAPTION, expected)
        for name, image, expected in (*_pictures(), *_odd_pictures())
    ]
    of_captions = [
        BadRow(f"caption_{name}", encoded(gradient(seed=100 + i), "PNG"), caption, expected)
        for i, (name, (caption, expected)) in enumerate(CAPTIONS.items())
    ]
    return of_pictures + of_captions
