"""Shards: WebDataset tars of records with a Parquet index, read by place.

A data set is a folder: ``shards/NAME-00000.tar`` and on, ``index.parquet`` with a row for each
record and ``dataset.json`` that describes the whole. A member's place in its tar stands in the
index, so a record is read without unpacking anything. With a store, ``shards.json`` is there
instead of the shards. :mod:`albef.ingest.shard_writer` writes it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.cache import ShardCache
from albef.data.record import Record
from albef.data.shard_files import Damaged as Damaged
from albef.data.shard_files import ShardError as ShardError
from albef.data.shard_files import ShardFiles, remedy
from albef.data.store import MANIFEST as MANIFEST

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
MORE = pa.field(
    "more",
    pa.list_(
        pa.struct(
            [
                ("offset", pa.int64()),
                ("size", pa.int32()),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("digest", pa.string()),
            ]
        )
    ),
)
"""One more column where records have several images: the same of each image after the first."""


def describe(folder: Path) -> dict[str, Any]:
    """What dataset.json of a data set holds.

    Raises:
        ShardError: it is missing or no JSON.
    """
    path = folder / "dataset.json"
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {remedy(folder)}") from None
    except ValueError as error:
        raise ShardError(f"{path} is no JSON ({error}): {remedy(folder)}") from None
    if not isinstance(value, dict):
        raise ShardError(f"{path} holds no description: {remedy(folder)}")
    return value


def read_index(
    folder: Path, split: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The index of a data set, or of one split, in order; all columns, or those that are named.

    A named one that it has not is left out.

    Raises:
        ShardError: it is missing or damaged.
    """
    path = folder / "index.parquet"
    filters = None if split is None else [("split", "==", split)]
    try:
        named = columns and [name for name in columns if name in pq.read_schema(path).names]
        return pq.read_table(path, columns=named, filters=filters)
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {remedy(folder)}") from None
    except pa.ArrowException as error:
        raise ShardError(f"{path} is damaged ({error}): {remedy(folder)}") from None


def digested(row: Mapping[str, Any]) -> bytes:
    """What a row of the index adds to the digest of its data set: neither place nor sizes."""
    own = [row["key"], row["digest"], row["captions"], row["split"], row["meta"]]
    more = [one["digest"] for one in row.get("more") or ()]
    return json.dumps(own + more, sort_keys=True, ensure_ascii=False).encode()


def index_digest(folder: Path) -> str:
    """The digest of a data set, from its index.

    Raises:
        ShardError: the index is missing or damaged.
    """
    path, found = folder / "index.parquet", hashlib.sha256()
    try:
        with pq.ParquetFile(path) as file:
            columns = ["key", "digest", "captions", "split", "meta"]
            columns += ["more"] if "more" in file.schema_arrow.names else []
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    found.update(digested(row))
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {remedy(folder)}") from None
    except pa.ArrowException as error:
        raise ShardError(f"{path} is damaged ({error}): {remedy(folder)}") from None
    return found.hexdigest()


class Shards:
    """The records of one split, read by place; columns lie in Arrow, not in Python lists.

    It may be handed to worker processes: files are opened by each process when it first reads.

    Args:
        folder: of the data set.
        split: of the data set.
        check: compare each image read with its digest.
        cache: where shards of a store are kept; None is that of ``runtime`` in params.yaml.

    Attributes:
        folder, split: as given.
        name: of the data set.
        digest: of the whole data set.
        files: its shards.

    Raises:
        ShardError: no such data set or split, or it is damaged.
    """

    def __init__(
        self, folder: Path, split: str, *, check: bool = True, cache: ShardCache | None = None
    ) -> None:
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
        self.files = ShardFiles(folder, cache)

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def keys(self) -> pa.StringArray:
        """Keys, in order."""
        return self._columns["key"]

    @property
    def sources(self) -> pa.StringArray:
        """Names of the sources that they come from, in order."""
        return self._columns["source"]

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
    def shard_names(self) -> pa.StringArray:
        """Names of the shards that they are in, in order."""
        return self._columns["shard"]

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
        first = {"offset": int(self._offsets[i]), "size": int(self._sizes[i])} | row
        more = self._columns["more"][i].as_py() if "more" in self._columns else ()
        image, *further = (
            self.files.image(
                row["shard"],
                one["offset"],
                one["size"],
                one["digest"] if self._check else None,
                f"{row['key']}.{number}" if number else row["key"],
            )
            for number, one in enumerate((first, *more))
        )
        return Record(
            key=row["key"],
            image=image,
            captions=tuple(row["captions"]),
            image_id=row["image_id"],
            split=self.split,
            source=row["source"],
            meta=json.loads(row["meta"]),
            more=tuple(further),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def hold(self, window: int | None) -> None:
        """Hold that the cache has room for what training reads at once, if there is a store.

        While some processes are still in a window of shards others are in the next one, so it is
        two windows, or the whole split where there is none.

        Raises:
            ShardError: it has not.
        """
        if self.files.cache is None:
            return
        sizes = sorted(map(self.files.size, self.shard_names.unique().to_pylist()), reverse=True)
        limit = self.files.cache.limit
        needed = sum(sizes if window is None else sizes[: 2 * window])
        if needed > limit:
            fits = int(np.searchsorted(np.cumsum(sizes), limit, "right")) // 2
            what = f"two windows of {window} shards" if window else "all shards"
            smaller = f"set the training's window to at most {fits} or " if fits else ""
            raise ShardError(
                f"{what} of {self.name}, split {self.split}, are {needed / 2**30:.3g} GiB, more "
                f"than runtime.cache_gb {limit / 2**30:.3g}: {smaller}raise runtime.cache_gb"
            )

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        self.files.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.folder, self.split, self._check, self.files.cache)


_READ = ("key", "shard", "captions", "image_id", "source", "digest", "meta")


def _opened(folder: Path, split: str, check: bool, cache: ShardCache | None) -> Shards:
    return Shards(folder, split, check=check, cache=cache)
