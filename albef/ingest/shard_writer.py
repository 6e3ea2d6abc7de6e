"""Writer of datasets as shards: equal records give equal bytes (:mod:`albef.data.shards`)."""

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from albef.data.record import Record, word_count
from albef.data.shards import MORE, SCHEMA, ShardError, describe, index_digest
from albef.data.store import MANIFEST, Manifest, Store, Stored
from albef.data.tar import BLOCK
from albef.io import sync, write_json

_ROWS = 10_000  # rows of the index that are collected before they are written
_END = 20 * BLOCK  # bytes that the end of a tar may take
_SUFFIXES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"))


def write(
    folder: Path,
    name: str,
    records: Iterable[Record],
    *,
    shard_mb: int,
    licences: Sequence[Mapping[str, str]],
    sources: Sequence[Mapping[str, Any]],
    store: Store | None = None,
) -> dict[str, Any]:
    """Write a whole dataset with :class:`ShardWriter`; return the contents of dataset.json.

    Raises:
        ShardError: the dataset is empty, or records have different numbers of images.
    """
    with ShardWriter(folder, name, shard_mb, store) as writer:
        for record in records:
            writer.add(record)
        return writer.finish(licences, sources)


class ShardWriter:
    """Writer of a dataset, record by record; it replaces the dataset in the folder.

    A shard is closed before it exceeds ``shard_mb`` MiB. If there is a store, the shard is uploaded
    there, and its file is removed.
    """

    def __init__(self, folder: Path, name: str, shard_mb: int, store: Store | None = None) -> None:
        self._folder = folder
        self._name = name
        self._limit = shard_mb * 2**20
        self._store = store
        self._stored: dict[str, Stored] = {}
        self._shards = 0  # closed shards
        self._tar: Any = None
        self._rows: list[dict[str, Any]] = []  # of the index, not yet written
        self._index: pq.ParquetWriter | None = None
        self._images = 0  # images of each record; 0 before the first record
        self._splits: Counter[str] = Counter()
        self._captions = 0
        shutil.rmtree(folder / "shards", ignore_errors=True)
        (folder / "shards").mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self._tar, self._index):
            if file is not None:
                file.close()

    def add(self, record: Record) -> None:
        """Write a record; its key must be unique and have 1 to 80 letters, digits, - or _."""
        self._images = self._images or len(record.images)
        if len(record.images) != self._images:
            raise ShardError(
                f"record {record.key} has {len(record.images)} images, but the first one has "
                f"{self._images}; use one dataset for each number of images"
            )
        members = _members(record)
        size = sum(map(_padded, members.values()))
        if self._tar is not None and self._tar.offset + size > self._limit - _END:
            self._close()
        if self._tar is None:
            self._tar = tarfile.open(self._shard, "w")  # noqa: SIM115 - closed by _close
        offsets = {}
        for name, content in sorted(members.items()):
            offsets[name] = self._tar.offset + BLOCK
            header = tarfile.TarInfo(f"{record.key}.{name}")
            header.size, header.mode = len(content), 0o444
            header.uname = header.gname = "bigdata"  # as webdataset's own writer
            self._tar.addfile(header, io.BytesIO(content))
        images = [_index_image(members[name], offsets[name]) for name in members if name != "json"]
        self._rows.append(_index_row(record, self._shard.name, images))
        self._splits[record.split] += 1
        self._captions += len(record.captions)
        if len(self._rows) == _ROWS:
            self._write_rows()

    @property
    def _shard(self) -> Path:
        return self._folder / "shards" / f"{self._name}-{self._shards:05d}.tar"

    def _close(self) -> None:
        self._tar.close()
        self._tar = None
        sync(self._shard)
        if self._store:
            self._stored[self._shard.name] = self._store.put(self._shard)
            self._shard.unlink()
        self._shards += 1

    def _write_rows(self) -> None:
        schema = SCHEMA if self._images == 1 else SCHEMA.append(MORE)
        if self._index is None:
            path = self._folder / "index.parquet"
            self._index = pq.ParquetWriter(path, schema, compression="zstd")
        self._index.write_table(pa.Table.from_pylist(self._rows, schema))
        self._rows.clear()

    def finish(
        self, licences: Sequence[Mapping[str, str]], sources: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Write index.parquet and dataset.json; return the contents of the latter."""
        if self._tar is not None:
            self._close()
        if not self._shards:
            raise ShardError(f"dataset {self._name} has no records")
        self._write_rows()
        if self._index is not None:
            self._index.close()
        if self._store:
            manifest = Manifest(store=self._store.url.rstrip("/"), shards=self._stored)
            write_json(self._folder / MANIFEST, manifest.model_dump())
            (self._folder / "shards").rmdir()
        described = {
            "name": self._name,
            "digest": index_digest(self._folder),
            "splits": self._splits,
            "captions": self._captions,
            "shards": self._shards,
            "licences": list(licences),
            "sources": list(sources),
        }
        if self._images > 1:
            described["images"] = self._images
        write_json(self._folder / "dataset.json", described)
        return describe(self._folder)


def _padded(member: bytes) -> int:
    """Return the size of a tar member with its header, in bytes."""
    return BLOCK + -(-len(member) // BLOCK) * BLOCK


def _members(record: Record) -> dict[str, bytes]:
    """Return the members of a record by suffix: ``json``, and its images, as ``png``, ``1.png``."""
    names = ("captions", "image_id", "key", "meta", "source", "split")
    described = {name: getattr(record, name) for name in names}
    members = {"json": _json(described).encode()}
    for number, image in enumerate(record.images):
        suffix = next((name for head, name in _SUFFIXES if image.startswith(head)), None)
        if suffix is None:
            raise ShardError(f"the image of record {record.key} is not PNG, JPEG or WebP")
        members[f"{number}.{suffix}" if number else suffix] = image
    return members


def _index_row(record: Record, shard: str, images: list[dict[str, Any]]) -> dict[str, Any]:
    row = {
        "key": record.key,
        "shard": shard,
        "split": record.split,
        "source": record.source,
        "image_id": record.image_id,
        "captions": list(record.captions),
        "caption_words": [min(word_count(text), 2**15 - 1) for text in record.captions],
        "meta": _json(record.meta),
        **images[0],
    }
    return row | {"more": images[1:]} if len(images) > 1 else row


def _index_image(image: bytes, offset: int) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(image)) as opened:  # This reads only the header.
            width, height = opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        width = height = 0  # Validation counts such images.
    return {
        "offset": offset,
        "size": len(image),
        "width": width,
        "height": height,
        "digest": hashlib.sha256(image).hexdigest(),
    }


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
