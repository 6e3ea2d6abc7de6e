"""Formats and suffixes of images. Decoders are in :mod:`albef.data.image_decoding`."""

import importlib.util
import os

HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *["HEIF"] * HAS_HEIC)
"""Formats that are opened, recognized by their bytes; other decoders are never reached. HEIC needs
the extra ``heic``."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")
"""Suffixes of images; if a sample has several images, the first suffix in this order is used."""


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_SUFFIXES
