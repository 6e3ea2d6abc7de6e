"""Shards: WebDataset tars of records with a Parquet index, written and read by place.

A data set is a folder: ``shards/NAME-00000.tar`` and on, ``index.parquet`` with a row for each
record and ``dataset.json`` that describes the whole. A member's place in its tar stands in the
index, so a record is read without unpacking anything.
"""

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from albef.data.record import Record

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("image_id", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("caption_words", pa.list_(pa.int16())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("digest", pa.string()),
        ("meta", pa.string()),
    ]
)
"""Columns of the index. ``offset`` and ``size`` (bytes) are the image's place in its shard,
``digest`` its SHA-256, ``width`` and ``height`` its pixels (0 where its header cannot be read),
``meta`` JSON with sorted keys."""
_ROWS = 10_000  # of the index, held before they are written
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_BLOCK = 512  # of a tar file
_END = 20 * _BLOCK  # it may be filled up to


class ShardError(ValueError):
    """A data set that cannot be read or written; its text is the sentence to show."""


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
        ShardError: a key that is no plain name or comes twice, or no record at all.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    splits: Counter[str] = Counter()
    captions = 0
    seen: set[bytes] = set()
    digest = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    with (
        _Tars(folder / "shards", name, shard_mb * 2**20) as tars,
        pq.ParquetWriter(folder / "index.parquet", SCHEMA, compression="zstd") as index,
    ):
        for record in records:
            _check_key(record.key, seen)
            row = _row(record, *tars.add(record))
            digest.update(
                _json([row["key"], row["digest"], row["captions"], row["split"], row["meta"]])
            )
            splits[record.split] += 1
            captions += len(record.captions)
            rows.append(row)
            if len(rows) == _ROWS:
                index.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        index.write_table(pa.Table.from_pylist(rows, SCHEMA))
    if not splits:
        raise ShardError(f"data set {name} has no record: raise a number in its splits")
    described_all = {
        "name": name,
        "digest": digest.hexdigest(),
        "splits": dict(splits),
        "captions": captions,
        "shards": tars.count,
        "licences": list(licences),
        "sources": list(sources),
    }
    (folder / "dataset.json").write_text(
        json.dumps(described_all, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )
    return described_all


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

    def add(self, record: Record) -> tuple[str, int]:
        """Write a record; returns the shard's file name and where the image begins in it."""
        suffix = _suffix(record)
        described = _json(
            {
                "captions": record.captions,
                "image_id": record.image_id,
                "key": record.key,
                "meta": record.meta,
                "source": record.source,
                "split": record.split,
            }
        )
        size = _padded(len(described)) + _padded(len(record.image))
        if self._tar is None or self._tar.tarstream.offset + size > self._limit - _END:
            self._begin()
        start = self._tar.tarstream.offset
        self._tar.write({"__key__": record.key, suffix: record.image, "json": described})
        # TarWriter sorts the members of a sample by name.
        before = _padded(len(described)) if suffix > "json" else 0
        return f"{self._name}-{self.count - 1:05d}.tar", start + before + _BLOCK

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


def _suffix(record: Record) -> str:
    """File name suffix of the record's image, by its first bytes."""
    head = record.image[:12]
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\xff\xd8"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    raise ShardError(f"the image of {record.key} is neither PNG, JPEG nor WebP")


def _row(record: Record, shard: str, offset: int) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(record.image)) as image:  # reads the header only
            width, height = image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        width = height = 0  # left for validation to count
    return {
        "key": record.key,
        "shard": shard,
        "offset": offset,
        "size": len(record.image),
        "split": record.split,
        "source": record.source,
        "image_id": record.image_id,
        "captions": list(record.captions),
        "caption_words": [min(len(text.split()), 2**15 - 1) for text in record.captions],
        "width": width,
        "height": height,
        "digest": hashlib.sha256(record.image).hexdigest(),
        "meta": _json(record.meta).decode(),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()


def _padded(size: int) -> int:
    """Bytes of a tar member with its header."""
    return _BLOCK + -(-size // _BLOCK) * _BLOCK


def describe(folder: Path) -> dict[str, Any]:
    """What dataset.json of a data set holds.

    Raises:
        ShardError: it is missing or no JSON.
    """
    path = folder / "dataset.json"
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {_remedy(folder)}") from None
    except ValueError as error:
        raise ShardError(f"{path} is no JSON ({error}): {_remedy(folder)}") from None
    if not isinstance(value, dict):
        raise ShardError(f"{path} holds no description: {_remedy(folder)}")
    return value


def read_index(
    folder: Path, split: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The index of a data set, or of one split, in order.

    Raises:
        ShardError: it is missing or damaged.
    """
    path = folder / "index.parquet"
    filters = None if split is None else [("split", "==", split)]
    try:
        return pq.read_table(
            path, columns=None if columns is None else list(columns), filters=filters
        )
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {_remedy(folder)}") from None
    except pa.ArrowException as error:
        raise ShardError(f"{path} is damaged ({error}): {_remedy(folder)}") from None


def _remedy(folder: Path) -> str:
    return f"run the stage ingest@{folder.name}, or dvc checkout, to get it back"


class Shards:
    """The records of one split, read by place; columns lie in Arrow, not in Python lists.

    It may be handed to worker processes: files are opened by each process when it first reads.

    Args:
        folder: of the data set.
        split: of the data set.
        check: compare each image read with its digest.

    Attributes:
        folder, split: as given.
        name: of the data set.
        digest: of the whole data set.

    Raises:
        ShardError: no such data set or split, or it is damaged.
    """

    def __init__(self, folder: Path, split: str, *, check: bool = True) -> None:
        self.folder = folder
        self.split = split
        described = describe(folder)
        self.name: str = described["name"]
        self.digest: str = described["digest"]
        table = read_index(folder, split)
        if table.num_rows == 0:
            known = ", ".join(sorted(described["splits"])) or "none"
            raise ShardError(f"{folder} has no split {split!r}; its splits are {known}")
        self._check = check
        self._columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        self._offsets: NDArray[np.int64] = self._columns["offset"].to_numpy()
        self._sizes: NDArray[np.int32] = self._columns["size"].to_numpy()
        self._files: dict[str, int] = {}
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def keys(self) -> pa.StringArray:
        """Keys, in order."""
        return self._columns["key"]

    @property
    def captions(self) -> pa.ListArray:
        """Lists of captions, in order."""
        return self._columns["captions"]

    @property
    def image_ids(self) -> NDArray[np.int64]:
        """Image ids, in order."""
        ids: NDArray[np.int64] = self._columns["image_id"].to_numpy()
        return ids

    @property
    def metas(self) -> pa.StringArray:
        """Meta as JSON texts, in order; :meth:`meta` reads one."""
        return self._columns["meta"]

    def meta(self, i: int) -> dict[str, Any]:
        """The meta of record ``i``."""
        value: dict[str, Any] = json.loads(self.metas[i].as_py())
        return value

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.folder} {self.split} has {len(self)} records, no {i}")
        row = {name: self._columns[name][i].as_py() for name in _READ}
        return Record(
            key=row["key"],
            image=self._image(row["shard"], i, row["key"], row["digest"]),
            captions=tuple(row["captions"]),
            image_id=row["image_id"],
            split=self.split,
            source=row["source"],
            meta=json.loads(row["meta"]),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def _image(self, shard: str, i: int, key: str, digest: str) -> bytes:
        if self._process != os.getpid():  # a fork shares no file with its parent
            self._files = {}
            self._process = os.getpid()
        path = self.folder / "shards" / shard
        size = int(self._sizes[i])
        try:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            image = os.pread(file, size, int(self._offsets[i]))
        except FileNotFoundError:
            raise ShardError(f"{path} is missing: {_remedy(self.folder)}") from None
        if len(image) != size:
            raise ShardError(f"{path} ends before {key}: {_remedy(self.folder)}")
        if self._check and hashlib.sha256(image).hexdigest() != digest:
            raise ShardError(f"{path} is damaged at {key}: {_remedy(self.folder)}")
        return image

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        if self._process == os.getpid():
            for file in self._files.values():
                os.close(file)
        self._files = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self.split, self._check)


_READ = ("key", "shard", "captions", "image_id", "source", "digest", "meta")


def _opened(folder: Path, split: str, check: bool) -> Shards:
    return Shards(folder, split, check=check)
