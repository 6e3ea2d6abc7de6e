"""Preparation of a source's record for storage: checked, resized, cleaned and hashed."""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from albef.data import boxes, image_decoding
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection, RowError
from albef.ingest.cleaning import clean_captions, escape_surrogates
from albef.ingest.config import IngestConfig

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""Pattern of a record's key."""
ORIGINAL = "original_captions"
"""Field of meta with the captions of the source, if cleaning changed any."""
_MIB = 2**20
_SIDE, _QUALITY = 160, 80  # pixels of the longer side, and quality, of a thumbnail
_CROP = 0.7**0.5  # share of a side that leaves 70 % of the area


@dataclass(frozen=True, eq=False)
class Rules:
    """Rules that rows must meet: the limits of all datasets, and values of the dataset.

    They are equal only to themselves, so that they have a hash.
    """

    limits: IngestConfig
    longest_side: int | None
    """Longer side of a stored image in pixels; None keeps the original size."""
    heldout: bool = False
    """Compute fingerprints of the mirrored and cropped image, too."""
    min_scores: Mapping[str, float] = field(default_factory=dict)
    """Lowest scores, as in :class:`albef.ingest.config.RowsConfig`."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Values by which repeated images are recognized."""

    digest: bytes
    """First 16 bytes of the SHA-256 of the image's file in the source."""
    phash: int
    """Perceptual hash of 64 bits; 0 if it is not needed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Row that is ready to be stored."""

    record: Record
    line: int
    """Position of the row in its source, from 1."""
    name: str
    """Name of the row in its source."""
    fingerprints: tuple[Fingerprint, ...]
    """Fingerprints of its images."""


def prepare(line: int, row: Record | Rejection, rules: Rules) -> Prepared | Rejection:
    """Return a row as it is stored, or its rejection. No content of a row raises an exception."""
    if isinstance(row, Rejection):
        return row
    name = name_of(row)
    try:
        return _prepared(line, name, row, rules)
    except Exception as error:
        cause = RowError.by(error)
        small = thumbnail(row.image, rules.limits)
        return Rejection(row.source, line, name, cause.reason, str(cause), small)


def name_of(row: Record) -> str:
    """Return the name of a row in its source: its path or URL if it has one, else its key."""
    names = (row.meta.get(field) for field in ("path", "url"))
    return next((name for name in names if isinstance(name, str)), row.key)


def thumbnail(image: bytes, limits: IngestConfig) -> bytes:
    """Return a small JPEG of an image for people to look at; empty if the image cannot be shown."""
    if len(image) > limits.max_megabytes * _MIB:
        return b""
    try:
        with image_decoding.opened(image, "", round(limits.max_megapixels * _MIB)) as opened:
            pixels = image_decoding.smaller(opened, image, _SIDE)
            upright = image_decoding.turned(pixels, image_decoding.orientation(opened))
            return encode(upright, "jpeg", _QUALITY)
    except RowError:
        return b""


def _prepared(line: int, name: str, record: Record, rules: Rules) -> Prepared:
    if not KEY.fullmatch(record.key):
        detail = f"key {record.key!r} must be 1 to 80 ASCII letters, digits, - or _"
        raise RowError(Reason.MALFORMED_ROW, detail)
    for score, min_score in rules.min_scores.items() if record.split == "train" else ():
        _check_score(score, record.meta.get(score), min_score)
    captions = clean_captions(record.captions, rules.limits.max_caption_chars)
    # As JSON can hold it: unpaired surrogates become question marks.
    meta = dict(json.loads(json.dumps(record.meta, ensure_ascii=False).encode(errors="replace")))
    if meta.get("itm_captions") is not None:
        meta["itm_captions"] = _itm_captions(meta["itm_captions"], rules.limits.max_caption_chars)
    located = boxes.of_meta(meta)
    # Boxes are in pixels of the image as its file holds it, so the image must not be rotated.
    stored = [_image(image, rules, not located) for image in record.images]
    (first, scale, _), *more = stored
    if located and scale != (1.0, 1.0):
        meta = {**meta, **boxes.scaled(located, *scale)}
    if captions != record.captions:
        meta = {**meta, ORIGINAL: [escape_surrogates(text) for text in record.captions]}
    stored_record = dataclasses.replace(
        record, image=first, captions=captions, meta=meta, more=tuple(image for image, *_ in more)
    )
    return Prepared(stored_record, line, name, tuple(one for *_, ones in stored for one in ones))


def _itm_captions(value: object, max_chars: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RowError(Reason.MALFORMED_ROW, "itm_captions must be a list of texts")
    return list(clean_captions(value, max_chars))


def _check_score(name: str, value: object, min_score: float) -> None:
    try:
        score = float(str(value))
    except ValueError:
        score = math.nan
    if not score >= min_score:
        found = "missing; list its column in `keep` of the source" if value is None else value
        raise RowError(Reason.LOW_SCORE, f"{name} is {found}; at least {min_score:g} is required")


@functools.lru_cache(1)  # The next row is often another caption of the same image.
def _image(
    image: bytes, rules: Rules, upright: bool
) -> tuple[bytes, tuple[float, float], list[Fingerprint]]:
    """Return an image as stored, its scale in width and height, and its fingerprints."""
    limits = rules.limits
    if len(image) > limits.max_megabytes * _MIB:
        size = f"{len(image) / _MIB:.3g} MiB; at most {limits.max_megabytes:g} MiB"
        detail = f"the image has {size} are allowed (ingest.max_megabytes)"
        raise RowError(Reason.TOO_MANY_BYTES, detail)
    with image_decoding.opened(image, "", round(limits.max_megapixels * _MIB)) as opened:
        width, height = opened.size
        image_decoding.check_shape(opened.size, limits.min_side, limits.max_aspect_ratio)
        pixels = image_decoding.smaller(opened, image, rules.longest_side)
        orientation = image_decoding.orientation(opened)
        is_plain = image_decoding.is_plain(opened)
    if min(pixels.size) < limits.min_side:
        detail = f"resized to {pixels.width} x {pixels.height} pixels, the image is too small"
        raise RowError(Reason.TOO_SMALL, f"{detail}; the shorter side must have {limits.min_side}")
    scale = pixels.width / width, pixels.height / height
    if upright:
        pixels = image_decoding.turned(pixels, orientation)
    phashes = [0]
    if limits.near_distance is not None:
        copies = (ImageOps.mirror(pixels), *_crops(pixels, limits.crops)) if rules.heldout else ()
        phashes = list(map(perceptual_hash, (pixels, *copies)))
    digest = hashlib.sha256(image).digest()[:16]
    fingerprints = [Fingerprint(digest, phash) for phash in phashes]
    if is_plain and scale == (1.0, 1.0):
        return image, scale, fingerprints
    return encode(pixels, limits.format, limits.quality), scale, fingerprints


def _crops(pixels: Image.Image, steps: int) -> Iterator[Image.Image]:
    """Yield crops of an image at even steps; one step gives the centre."""
    width, height = (round(side * _CROP) for side in pixels.size)
    for row, column in itertools.product(range(steps), repeat=2):
        left = round((pixels.width - width) * (column + 0.5) / steps)
        top = round((pixels.height - height) * (row + 0.5) / steps)
        yield pixels.crop((left, top, left + width, top + height))


def perceptual_hash(image: Image.Image) -> int:
    """Return the perceptual hash of an image: 64 signs of its coarse structure."""
    import imagehash  # imported late because it loads SciPy

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def encode(image: Image.Image, form: str, quality: int) -> bytes:
    """Encode an RGB image as ``jpeg`` or ``webp``."""
    if form == "jpeg":
        import simplejpeg

        pixels = np.ascontiguousarray(image)
        return bytes(simplejpeg.encode_jpeg(pixels, quality, colorsubsampling="420"))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()
