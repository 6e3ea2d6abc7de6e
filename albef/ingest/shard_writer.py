"""Writing a data set as shards: equal records give equal bytes (:mod:`albef.data.shards`)."""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from albef.data.record import Record
from albef.data.shards import MORE, SCHEMA, ShardError, describe, index_digest
from albef.data.store import MANIFEST, Manifest, Store, Stored
from albef.data.tar import BLOCK
from albef.io import atomic, file_digest, sync, write_json

_ROWS = 10_000  # of the index, held before they are written
_END = 20 * BLOCK  # a tar may be filled up to
_RECORDS, _TAR = b"records", b"tar"  # digests that a part carries: of its records, of its tar
PARTS = "parts"
"""Folder of what a data set is put together from; it is no part of it."""
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
    """Write a data set whole, as :class:`ShardWriter` does; returns what dataset.json holds.

    Raises:
        ShardError: no record at all, or records with different numbers of images.
    """
    with ShardWriter(folder, name, shard_mb, store) as writer:
        for record in records:
            writer.add(record)
        described = writer.finish(licences, sources)
    shutil.rmtree(folder / PARTS)
    return described


class ShardWriter:
    """Writes a data set record by record; shards that are there already, from one that was killed
    or had the same first records, are not written again.

    A finished shard is a tar with its part of the index in :data:`PARTS`, each whole or absent;
    where there is a store, it is sent there, and what was sent stands in the tar's place. It is
    closed before it outgrows ``shard_mb`` MiB. ``finished`` counts the records in the finished
    ``shards``: the first of all, not to be added again.

    Args:
        digests: (N,) of all records, each with whatever its bytes depend on; a shard is taken up
            where its records and the one after it have the digests that they had.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        shard_mb: int,
        store: Store | None = None,
        digests: NDArray[np.bytes_] | None = None,
    ) -> None:
        self.finished = 0
        self.shards = 0
        self._folder = folder
        self._name = name
        self._limit = shard_mb * 2**20
        self._store = store
        self._rows: list[dict[str, Any]] = []
        self._tar: Any = None
        self._images = 0  # of each record; 0 before the first
        self._digests = digests
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        (folder / PARTS).mkdir(exist_ok=True)
        while self._is_finished(self.shards):
            index_part = pq.ParquetFile(self._part(self.shards))
            self.finished += index_part.metadata.num_rows
            row = next(index_part.iter_batches(1)).to_pylist()[0]
            self._images = self._images or 1 + len(row.get("more") or ())
            self.shards += 1
        parts = len(list((folder / PARTS).glob("index-*")))
        for number in range(self.shards, parts):
            for path in (self._part(number), self._shard(number), self._marker(number)):
                path.unlink(missing_ok=True)

    def _is_finished(self, number: int) -> bool:
        """Whether a shard is finished and holds the next records, and no other one would fit."""
        if self._digests is None or not self._part(number).exists():
            return False
        part, shard, marker = self._part(number), self._shard(number), self._marker(number)
        footer = pq.read_metadata(part)
        if footer.metadata[_RECORDS] != self._records(footer.num_rows):
            return False
        if self._store is None:
            return shard.exists() and file_digest(shard).encode() == footer.metadata[_TAR]
        if shard.exists():
            self._send(number)
        return marker.exists() and self._store.holds(Stored.model_validate_json(marker.read_text()))

    def _records(self, count: int) -> bytes:
        """The digest of the next records, so many and the one after them, as they are stored."""
        if self._digests is None:
            return b""
        values = json.dumps([self._limit, _END, self._store.url if self._store else None])
        records = self._digests[self.finished : self.finished + count + 1].tobytes()
        return hashlib.sha256(values.encode() + records).hexdigest().encode()

    def _shard(self, number: int) -> Path:
        return self._folder / "shards" / f"{self._name}-{number:05d}.tar"

    def _part(self, number: int) -> Path:
        return self._folder / PARTS / f"index-{number:05d}"

    def _marker(self, number: int) -> Path:
        return self._folder / PARTS / f"sent-{number:05d}"

    def _send(self, number: int) -> None:
        """Have a finished shard in the store, if there is one, and not here."""
        if self._store is None:
            return
        shard, marker = self._shard(number), self._marker(number)
        if not marker.exists():
            write_json(marker, self._store.put(shard).model_dump())
        shard.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, record: Record) -> None:
        """Write a record, whose key has 1 to 80 letters, digits, - or _ and comes once."""
        self._images = self._images or len(record.images)
        if len(record.images) != self._images:
            raise ShardError(
                f"record {record.key} has {len(record.images)} images and the first one has "
                f"{self._images}: records of one data set have equally many"
            )
        members = _members(record)
        if self._tar is not None and self._tar.tarstream.offset + room(record) > self._limit - _END:
            self._close()
        if self._tar is None:
            from webdataset.writer import TarWriter  # it imports torch

            self._tar = TarWriter(str(self._unfinished), encoder=False, mtime=0)
        offsets = {}
        start = self._tar.tarstream.offset
        for name in sorted(members):  # as TarWriter orders the members of a sample
            offsets[name] = start + BLOCK
            start += _padded(members[name])
        self._tar.write({"__key__": record.key, **members})
        images = [_index_image(members[name], offsets[name]) for name in members if name != "json"]
        self._rows.append(_index_row(record, self._shard(self.shards).name, images))

    @property
    def _unfinished(self) -> Path:
        return self._folder / PARTS / "shard"

    def _close(self) -> None:
        """Finish the shard that is open: its part of the index first, then itself."""
        self._tar.close()
        self._tar = None
        sync(self._unfinished)
        of_shard = {_RECORDS: self._records(len(self._rows))}
        of_shard[_TAR] = file_digest(self._unfinished).encode()
        rows = pa.Table.from_pylist(self._rows, self._schema)
        with atomic(self._part(self.shards)) as part:
            pq.write_table(rows.replace_schema_metadata(of_shard), part)
        self._unfinished.replace(self._shard(self.shards))
        self._send(self.shards)
        self.finished += len(self._rows)
        self.shards += 1
        self._rows = []

    @property
    def _schema(self) -> pa.Schema:
        return SCHEMA if self._images == 1 else SCHEMA.append(MORE)

    def finish(
        self, licences: Sequence[Mapping[str, str]], sources: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Write index.parquet and dataset.json; returns what the latter holds.

        Raises:
            ShardError: there is no record.
        """
        if self._tar is not None:
            self._close()
        if not self.shards:
            raise ShardError(
                f"data set {self._name} has no record: none of its sources' rows is left"
            )
        splits, captions = self._write_index()
        if self._store:
            stored = {
                self._shard(i).name: Stored.model_validate_json(self._marker(i).read_text())
                for i in range(self.shards)
            }
            manifest = Manifest(store=self._store.url.rstrip("/"), shards=stored)
            write_json(self._folder / MANIFEST, manifest.model_dump())
            shutil.rmtree(self._folder / "shards", ignore_errors=True)
        described = {
            "name": self._name,
            "digest": index_digest(self._folder),
            "splits": splits,
            "captions": captions,
            "shards": self.shards,
            "licences": list(licences),
            "sources": list(sources),
            **({"images": self._images} if self._images > 1 else {}),
        }
        write_json(self._folder / "dataset.json", described)
        return describe(self._folder)

    def _write_index(self) -> tuple[Counter[str], int]:
        """Write all parts as one index; returns the records of each split, and all captions."""
        splits: Counter[str] = Counter()
        captions = 0
        rows = self._schema.empty_table()
        path = self._folder / "index.parquet"
        path.unlink(missing_ok=True)  # its file may be a product's, too
        with pq.ParquetWriter(path, self._schema, compression="zstd") as index:
            for shard in range(self.shards):
                part = pq.read_table(self._part(shard)).replace_schema_metadata()
                splits.update(part["split"].to_pylist())
                captions += pc.sum(pc.list_value_length(part["captions"])).as_py()
                rows = pa.concat_tables([rows, part])
                while len(rows) >= _ROWS:
                    index.write_table(rows[:_ROWS].combine_chunks())
                    rows = rows[_ROWS:]
            index.write_table(rows.combine_chunks())
        return splits, captions


def room(record: Record) -> int:
    """Bytes of a record in a shard."""
    return sum(map(_padded, _members(record).values()))


def _padded(member: bytes) -> int:
    """Bytes of a tar member with its header."""
    return BLOCK + -(-len(member) // BLOCK) * BLOCK


def _members(record: Record) -> dict[str, bytes]:
    """What a shard holds of a record, by the suffix of its file name: ``json``, and its images in
    order as ``png``, then ``1.png`` and on.
    """
    described = {
        "captions": record.captions,
        "image_id": record.image_id,
        "key": record.key,
        "meta": record.meta,
        "source": record.source,
        "split": record.split,
    }
    members = {"json": _json(described).encode()}
    for number, image in enumerate(record.images):
        suffix = next((name for head, name in _SUFFIXES if image.startswith(head)), None)
        if suffix is None:
            raise ShardError(f"the image of {record.key} is neither PNG, JPEG nor WebP")
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
        "caption_words": [min(len(text.split()), 2**15 - 1) for text in record.captions],
        "meta": _json(record.meta),
        **images[0],
    }
    return row | {"more": images[1:]} if len(images) > 1 else row


def _index_image(image: bytes, offset: int) -> dict[str, Any]:
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


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
