"""Writing a data set as shards: equal records give equal bytes (:mod:`albef.data.shards`)."""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from albef.data.record import Record
from albef.data.shards import MORE, SCHEMA, ShardError, digested

_ROWS = 10_000  # of the index, held before they are written
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_BLOCK = 512  # of a tar file
_END = 20 * _BLOCK  # it may be filled up to


def write(
    folder: Path,
    name: str,
    records: Iterable[Record],
    *,
    shard_mb: int,
    licences: Sequence[Mapping[str, str]],
    sources: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write a data set; equal records give equal bytes.

    Args:
        folder: where to write; it should be empty.
        name: of the data set.
        records: read once, never held.
        shard_mb: a shard is closed before it outgrows this many MiB.
        licences: under which the records stand.
        sources: what the records were made from.

    Returns:
        What dataset.json holds.

    Raises:
        ShardError: a key that is no plain name or comes twice, no record at all, or records
            with different numbers of images.
    """
    rest = iter(records)
    first = next(rest, None)
    if first is None:
        raise ShardError(f"data set {name} has no record: raise a number in its splits")
    images = len(first.images)
    schema = SCHEMA if images == 1 else SCHEMA.append(MORE)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    splits: Counter[str] = Counter()
    captions = 0
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    with (
        _Tars(folder / "shards", name, shard_mb * 2**20) as tars,
        pq.ParquetWriter(folder / "index.parquet", schema, compression="zstd") as index,
    ):
        for record in chain([first], rest):
            _check_key(record.key, seen)
            if len(record.images) != images:
                raise ShardError(
                    f"record {record.key} has {len(record.images)} images and {first.key} has "
                    f"{images}: records of one data set have equally many"
                )
            row = _row(record, *tars.add(record))
            digest.update(digested(row))
            splits[record.split] += 1
            captions += len(record.captions)
            rows.append(row)
            if len(rows) == _ROWS:
                index.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        index.write_table(pa.Table.from_pylist(rows, schema))
    described = {
        "name": name,
        "digest": digest.hexdigest(),
        "splits": dict(splits),
        "captions": captions,
        "shards": tars.count,
        "licences": list(licences),
        "sources": list(sources),
        **({"images": images} if images > 1 else {}),
    }
    (folder / "dataset.json").write_text(
        json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )
    return described


class _Tars:
    """The shards of a data set, one open at a time.

    Attributes:
        count: of the shards begun.
    """

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.count = 0
        self._folder = folder
        self._name = name
        self._limit = limit
        self._tar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, record: Record) -> tuple[str, list[int]]:
        """Write a record; returns the shard's file name and where its images begin in it."""
        told = {
            "captions": record.captions,
            "image_id": record.image_id,
            "key": record.key,
            "meta": record.meta,
            "source": record.source,
            "split": record.split,
        }
        names = _members(record)
        members = {"json": _json(told), **dict(zip(names, record.images, strict=True))}
        size = sum(map(_padded, map(len, members.values())))
        if self._tar is None or self._tar.tarstream.offset + size > self._limit - _END:
            self._begin()
        places = {}
        start = self._tar.tarstream.offset
        for name in sorted(members):  # as TarWriter orders the members of a sample
            places[name] = start + _BLOCK
            start += _padded(len(members[name]))
        self._tar.write({"__key__": record.key, **members})
        return f"{self._name}-{self.count - 1:05d}.tar", [places[name] for name in names]

    def _begin(self) -> None:
        from webdataset.writer import TarWriter  # it imports torch

        if self._tar is not None:
            self._tar.close()
        path = self._folder / f"{self._name}-{self.count:05d}.tar"
        self._tar = TarWriter(str(path), encoder=False, mtime=0)
        self.count += 1


def _check_key(key: str, seen: set[bytes]) -> None:
    if not _KEY.fullmatch(key):
        raise ShardError(f"key {key!r}: a key has 1 to 80 letters, digits, - or _ and no dot")
    short = hashlib.sha256(key.encode()).digest()[:12]  # millions of keys fit in memory so
    if short in seen:
        raise ShardError(f"key {key!r} comes twice; keys are unique in a data set")
    seen.add(short)


def _members(record: Record) -> list[str]:
    """File name suffixes of a record's images: ``png``, then ``1.png`` and on."""
    suffixes = [_suffix(image, record.key) for image in record.images]
    return [f"{i}.{suffix}" if i else suffix for i, suffix in enumerate(suffixes)]


def _suffix(image: bytes, key: str) -> str:
    """File name suffix of an image, by its first bytes."""
    head = image[:12]
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\xff\xd8"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    raise ShardError(f"the image of {key} is neither PNG, JPEG nor WebP")


def _row(record: Record, shard: str, offsets: Sequence[int]) -> dict[str, Any]:
    first, *more = map(_image, record.images, offsets)
    row = {
        "key": record.key,
        "shard": shard,
        "split": record.split,
        "source": record.source,
        "image_id": record.image_id,
        "captions": list(record.captions),
        "caption_words": [min(len(text.split()), 2**15 - 1) for text in record.captions],
        "meta": _json(record.meta).decode(),
        **first,
    }
    return row | {"more": more} if more else row


def _image(image: bytes, offset: int) -> dict[str, Any]:
    """What the index says of an image."""
    try:
        with Image.open(io.BytesIO(image)) as opened:  # reads the header only
            width, height = opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        width = height = 0  # left for validation to count
    return {
        "offset": offset,
        "size": len(image),
        "width": width,
        "height": height,
        "digest": hashlib.sha256(image).hexdigest(),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def _padded(size: int) -> int:
    """Bytes of a tar member with its header."""
    return _BLOCK + -(-size // _BLOCK) * _BLOCK
