"""Writing a data set as shards: equal records give equal bytes (:mod:`albef.data.shards`)."""

import hashlib
import io
import json
import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from albef.data.record import Record
from albef.data.shards import MORE, SCHEMA, ShardError, describe, digested
from albef.data.store import MANIFEST, Manifest, Store, Stored
from albef.data.tar import BLOCK
from albef.ingest.near_duplicates import runs

_ROWS = 10_000  # of the index, held before they are written
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_END = 20 * BLOCK  # it may be filled up to


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
    """Write a data set; equal records give equal bytes.

    Args:
        folder: where to write; it should be empty.
        name: of the data set.
        records: read once, never held.
        shard_mb: a shard is closed before it outgrows this many MiB.
        licences: under which the records stand.
        sources: what the records were made from.
        store: where shards go; None leaves them in the folder.

    Returns:
        What dataset.json holds.

    Raises:
        ShardError: a key that is no plain name or comes twice, no record at all, or records
            with different numbers of images.
    """
    with ShardWriter(folder, name, shard_mb, store) as writer:
        for record in records:
            writer.add(record)
        return writer.finish(licences, sources)


class ShardWriter:
    """Writes a data set record by record; what was killed goes on at its first missing shard.

    A finished shard is a tar with its part of the index beside it, each whole or absent; where
    there is a store, it is sent there, and what was sent stands in the tar's place.

    Args:
        folder: of the data set, with the shards that are finished already.
        name: of the data set.
        shard_mb: a shard is closed before it outgrows this many MiB.
        store: where shards go; None leaves them in the folder.

    Attributes:
        finished: records in the shards that are finished: the first of all, not to be added again.
        shards: number of finished shards.
        complete: whether everything is finished already.
    """

    def __init__(self, folder: Path, name: str, shard_mb: int, store: Store | None = None) -> None:
        self.finished = 0
        self.shards = 0
        self._folder = folder
        self._name = name
        self._limit = shard_mb * 2**20
        self._store = store
        self._rows: list[dict[str, Any]] = []
        self._tar: Any = None
        self._images = 0  # of each record; 0 before the first
        self.complete = (folder / "dataset.json").exists()
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        while not self.complete and self._is_finished(self.shards):
            rows = pq.ParquetFile(self._part(self.shards))
            self.finished += rows.metadata.num_rows
            self._send(self.shards)
            self.shards += 1
            if not self._images:
                self._images = _images_of(next(rows.iter_batches(1)).to_pylist()[0])

    def _is_finished(self, number: int) -> bool:
        there = self._shard(number).exists() or self._sent(number).exists()
        return there and self._part(number).exists()

    def _sent(self, number: int) -> Path:
        return self._folder / f"sent-{number:05d}.part"

    def _send(self, number: int) -> None:
        """Have a finished shard in the store, if there is one, and not here."""
        if self._store is None:
            return
        shard, sent = self._shard(number), self._sent(number)
        if not sent.exists():
            _write_whole(sent, self._store.put(shard).model_dump_json())
        shard.unlink(missing_ok=True)

    def _shard(self, number: int) -> Path:
        return self._folder / "shards" / f"{self._name}-{number:05d}.tar"

    def _part(self, number: int) -> Path:
        return self._folder / f"index-{number:05d}.part"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, record: Record) -> None:
        """Write a record."""
        if not _KEY.fullmatch(record.key):
            raise ShardError(
                f"key {record.key!r}: a key has 1 to 80 letters, digits, - or _ and no dot"
            )
        self._images = self._images or len(record.images)
        if len(record.images) != self._images:
            raise ShardError(
                f"record {record.key} has {len(record.images)} images and the first one has "
                f"{self._images}: records of one data set have equally many"
            )
        names = _names(record)
        members = _members(record)
        size = _size(members)
        if self._tar is not None and self._tar.tarstream.offset + size > self._limit - _END:
            self._close()
        if self._tar is None:
            from webdataset.writer import TarWriter  # it imports torch

            self._tar = TarWriter(str(self._unfinished), encoder=False, mtime=0)
        places = {}
        start = self._tar.tarstream.offset
        for name in sorted(members):  # as TarWriter orders the members of a sample
            places[name] = start + BLOCK
            start += _padded(len(members[name]))
        self._tar.write({"__key__": record.key, **members})
        shard = self._shard(self.shards).name
        self._rows.append(_row(record, shard, [places[name] for name in names]))

    @property
    def _unfinished(self) -> Path:
        return self._folder / "shard.part"

    def _close(self) -> None:
        """Finish the shard that is open: its part of the index first, then itself."""
        self._tar.close()
        self._tar = None
        part = self._part(self.shards)
        beside = part.with_suffix(".unfinished")
        pq.write_table(pa.Table.from_pylist(self._rows, _schema(self._images)), beside)
        beside.replace(part)
        with self._unfinished.open("rb") as file:
            os.fsync(file.fileno())
        self._unfinished.replace(self._shard(self.shards))
        self._send(self.shards)
        self.finished += len(self._rows)
        self.shards += 1
        self._rows = []

    def finish(
        self, licences: Sequence[Mapping[str, str]], sources: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Write index.parquet and dataset.json; returns what the latter holds.

        Raises:
            ShardError: there is no record, or a key comes twice.
        """
        if self.complete:
            self._tidy()
            return describe(self._folder)
        if self._tar is not None:
            self._close()
        if not self.shards:
            raise ShardError(f"data set {self._name} has no record: raise a number in its splits")
        splits: Counter[str] = Counter()
        captions = 0
        digest = hashlib.sha256()
        keys = array("Q")  # millions fit in memory so
        for row in self._index():
            digest.update(digested(row))
            splits[row["split"]] += 1
            captions += len(row["captions"])
            keys.append(_word(row["key"]))
        self._check(keys)
        images = self._images
        described = {
            "name": self._name,
            "digest": digest.hexdigest(),
            "splits": dict(splits),
            "captions": captions,
            "shards": self.shards,
            "licences": list(licences),
            "sources": list(sources),
            **({"images": images} if images > 1 else {}),
        }
        if self._store:
            _write_whole(self._folder / MANIFEST, _text(self._manifest(self._store.url)))
        _write_whole(self._folder / "dataset.json", _text(described))
        self._tidy()
        return described

    def _manifest(self, url: str) -> dict[str, Any]:
        shards = {
            self._shard(number).name: Stored.model_validate_json(self._sent(number).read_text())
            for number in range(self.shards)
        }
        return Manifest(store=url, shards=shards).model_dump()

    def _tidy(self) -> None:
        """Leave nothing but the data set."""
        for part in (*self._folder.glob("*.part"), *self._folder.glob("*.unfinished")):
            part.unlink()
        if self._store:
            shutil.rmtree(self._folder / "shards", ignore_errors=True)

    def _index(self) -> Iterator[dict[str, Any]]:
        """The rows of the parts, in order, while they are written to one index."""
        schema = _schema(self._images)
        path = self._folder / "index.parquet"
        rows: list[dict[str, Any]] = []
        with pq.ParquetWriter(path, schema, compression="zstd") as index:
            for shard in range(self.shards):
                for row in pq.read_table(self._part(shard)).to_pylist():
                    yield row
                    rows.append(row)
                    if len(rows) == _ROWS:
                        index.write_table(pa.Table.from_pylist(rows, schema))
                        rows.clear()
            index.write_table(pa.Table.from_pylist(rows, schema))

    def _check(self, words: "array[int]") -> None:
        """Hold that every key comes once, from a word of each."""
        every = np.frombuffer(words, np.uint64)
        twice = {int(every[run[0]]) for run in runs(every)}
        seen: set[str] = set()
        for key in (
            pq.read_table(self._folder / "index.parquet", columns=["key"])[0] if twice else ()
        ):
            if _word(key.as_py()) in twice:
                if key.as_py() in seen:
                    raise ShardError(
                        f"key {key.as_py()!r} comes twice; keys are unique in a data set"
                    )
                seen.add(key.as_py())


def _text(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    beside = path.with_name(path.name + ".unfinished")
    beside.write_text(text)
    beside.replace(path)


def _word(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def _schema(images: int) -> pa.Schema:
    return SCHEMA if images == 1 else SCHEMA.append(MORE)


def _images_of(row: Mapping[str, Any]) -> int:
    """How many images a row of the index has."""
    return 1 + len(row.get("more") or ())


def room(record: Record) -> int:
    """Bytes of a record in a shard."""
    return _size(_members(record))


def _size(members: Mapping[str, bytes]) -> int:
    return sum(map(_padded, map(len, members.values())))


def _members(record: Record) -> dict[str, bytes]:
    """What a shard holds of a record, by the suffix of its file name."""
    told = {
        "captions": record.captions,
        "image_id": record.image_id,
        "key": record.key,
        "meta": record.meta,
        "source": record.source,
        "split": record.split,
    }
    return {"json": _json(told), **dict(zip(_names(record), record.images, strict=True))}


def _names(record: Record) -> list[str]:
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
    return BLOCK + -(-size // BLOCK) * BLOCK
