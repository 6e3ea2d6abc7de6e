"""Shards: WebDataset tars of records with a Parquet index, read by offset.

A dataset is a folder with these parts:

- ``shards/NAME-00000.tar`` and so on: the records;
- ``index.parquet``: a row for each record;
- ``dataset.json``: a description of the whole dataset.

The index holds the offset of each image in its tar, so a record is read without unpacking anything.
With a store, ``shards.json`` replaces the shards. :mod:`albef.ingest.shard_writer` writes the
folder. A filtered dataset has neither shards nor ``shards.json``: its ``dataset.json`` names the
neighbouring dataset whose shards it uses (``shards_of``).
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from albef.data.cache import ShardCache
from albef.data.record import Record
from albef.data.shard_files import DamagedShardError as DamagedShardError
from albef.data.shard_files import ShardError as ShardError
from albef.data.shard_files import ShardFiles, remedy
from albef.data.store import MANIFEST as MANIFEST
from albef.io import atomic, file_digest, lock, read_json

SCHEMA = pa.schema({
    "key": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int32(),
    "split": pa.string(), "source": pa.string(), "image_id": pa.int64(),
    "captions": pa.list_(pa.string()), "caption_words": pa.list_(pa.int16()), "width": pa.int32(),
    "height": pa.int32(), "digest": pa.string(), "meta": pa.string(),
})  # fmt: skip
"""Columns of the index. ``offset`` and ``size`` (bytes) locate the image in its shard, and
``digest`` is its SHA-256. ``width`` and ``height`` are in pixels, 0 if the header cannot be read.
``meta`` is JSON with sorted keys."""
_OF_IMAGE = ("offset", "size", "width", "height", "digest")
MORE = pa.field("more", pa.list_(pa.struct([SCHEMA.field(name) for name in _OF_IMAGE])))
"""Additional column for records with several images: the same fields of each further image."""


_OFFSETS = 2**31  # bytes of a column that 32-bit offsets can address


def describe(folder: Path) -> dict[str, Any]:
    """Return the contents of a dataset's dataset.json.

    Raises:
        ShardError: the file is missing.
    """
    path = folder / "dataset.json"
    described = read_json(path)
    if described is None:
        raise ShardError(f"{path} is missing: {remedy(folder)}")
    return dict(described)


@contextlib.contextmanager
def _index(folder: Path) -> Iterator[Path]:
    """Yield the path of a dataset's index; convert errors of reading it to ShardError."""
    path = folder / "index.parquet"
    try:
        yield path
    except FileNotFoundError:
        raise ShardError(f"{path} is missing: {remedy(folder)}") from None
    except pa.ArrowException as error:
        raise ShardError(f"{path} is damaged ({error}): {remedy(folder)}") from None


def read_index(
    folder: Path, split: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the index of a dataset, or of one split, in order.

    All columns are read, or those that are named. A named column that does not exist is left out. A
    column of 2 GiB or more has 64-bit offsets.

    Raises:
        ShardError: the index is missing or damaged.
    """
    filters = None if split is None else [("split", "==", split)]
    with _index(folder) as path:
        named = columns and [name for name in columns if name in pq.read_schema(path).names]
        table = pq.read_table(path, columns=named, filters=filters)
    for i, field in enumerate(table.schema):
        if table.column(i).nbytes >= _OFFSETS:
            wide = field.with_type(_wide(field.type))
            table = table.set_column(i, wide, table.column(i).cast(wide.type))
    return table


def _mapped(folder: Path, split: str, cache_folder: Path) -> pa.Table:
    """Return the index of a split as a memory map that all processes of a machine share."""
    with _index(folder) as index:
        path = cache_folder / f"{split}-{file_digest(index)[:16]}.arrow"
    if not path.exists():
        with lock(path.with_suffix(".lock"), wait=str) as lock_file:
            if not path.exists():
                table = _combined(read_index(folder, split))
                with atomic(path) as part, pa.ipc.new_file(str(part), table.schema) as file:
                    file.write_table(table)
                del table
                # Otherwise the first process keeps all of this memory.
                pa.default_memory_pool().release_unused()
            Path(lock_file.name).unlink()
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _combined(table: pa.Table) -> pa.Table:
    """Return a table with one array per column; at most one column is in memory twice."""
    for i, field in enumerate(table.schema):
        if table.column(i).num_chunks != 1:
            table = table.set_column(i, field, table.column(i).combine_chunks())
    return table


def _wide(kind: pa.DataType) -> pa.DataType:
    """Return a type with 64-bit offsets."""
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide(field.type)) for field in kind])
    return pa.large_string() if pa.types.is_string(kind) else kind


def index_digest(folder: Path) -> str:
    """Return the digest of a dataset, computed from its index.

    It does not depend on offsets or sizes.

    Raises:
        ShardError: the index is missing or damaged.
    """
    digest = hashlib.sha256()
    columns = ["key", "digest", "captions", "split", "meta"]
    with _index(folder) as path, pq.ParquetFile(path) as file:
        extra_columns = ["more"] if "more" in file.schema_arrow.names else []
        for batch in file.iter_batches(10_000, columns=columns + extra_columns):
            for row in batch.to_pylist():
                values = [row[name] for name in columns]
                values += [image["digest"] for image in row.get("more", ())]
                digest.update(json.dumps(values, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def shared_keys(folder: Path, split: str, trained: Path) -> tuple[str, ...]:
    """Return the keys of the records of a split that share an image with a training split.

    Equal files are found; images that only look alike are not. ``trained`` is the folder of the
    training data, which may be the same.

    Raises:
        ShardError: a dataset is missing or damaged.
    """
    theirs = pc.unique(_images(trained, "train")["digest"])
    ours = _images(folder, split)
    keys = ours.filter(pc.is_in(ours["digest"], value_set=theirs))["key"]
    return tuple(dict.fromkeys(keys.to_pylist()))


def _images(folder: Path, split: str) -> pa.Table:
    """Return the key and digest of every image, including further images of a record."""
    index = read_index(folder, split, ("key", "digest", "more"))
    first_images = index.select(["key", "digest"])
    if "more" not in index.column_names:
        return first_images
    owner = pc.list_parent_indices(index["more"].combine_chunks())
    flattened = pa.Table.from_struct_array(pc.list_flatten(index["more"]).combine_chunks())
    further = pa.table({"key": first_images["key"].take(owner), "digest": flattened["digest"]})
    return pa.concat_tables([first_images, further])


class Shards:
    """Records of one split, read by position; columns stay in Arrow, not in Python lists.

    You can pass it to worker processes: each process opens files when it first reads. ``name`` and
    ``digest`` are those of the whole dataset; ``metas`` are JSON texts. ``cache`` is for the shards
    of a store; None is the default of the process. In the folder ``mapped``, several processes
    share an index; None reads a private copy.

    Raises:
        ShardError: the dataset or split does not exist, or is damaged.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        cache: ShardCache | None = None,
        mapped: Path | None = None,
    ) -> None:
        self.folder = folder
        self.split = split
        described = describe(folder)
        self.name: str = described["name"]
        self.digest: str = described["digest"]
        table = _combined(_mapped(folder, split, mapped) if mapped else read_index(folder, split))
        if table.num_rows == 0:
            splits = ", ".join(sorted(described["splits"])) or "none"
            raise ShardError(f"{folder} has no split {split!r}; its splits are {splits}")
        columns = {name: table.column(name).chunk(0) for name in table.column_names}
        self._columns, self._mapped = columns, mapped
        self.keys: pa.StringArray = columns["key"]
        self.sources: pa.StringArray = columns["source"]
        self.captions: pa.ListArray = columns["captions"]
        self.image_ids: NDArray[np.int64] = columns["image_id"].to_numpy()
        self.shard_names: pa.StringArray = columns["shard"]
        self.metas: pa.StringArray = columns["meta"]
        # A filtered dataset uses the shards of the dataset that it filters.
        shards_of = folder.parent / described.get("shards_of", folder.name)
        self.files = ShardFiles(shards_of, cache)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_several_images(self) -> bool:
        """Return whether a record has several images."""
        return "more" in self._columns

    def meta(self, i: int) -> dict[str, Any]:
        """Return the meta of record ``i``."""
        value: dict[str, Any] = json.loads(self.metas[i].as_py())
        return value

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.folder} {self.split} has {len(self)} records, but not {i}")
        row = {name: self._columns[name][i].as_py() for name in _READ}
        further = self._columns["more"][i].as_py() if "more" in self._columns else ()
        image, *more = (
            self.files.image(
                row["shard"], location["offset"], location["size"], location["digest"], row["key"]
            )
            for location in (row, *further)
        )
        return Record(
            key=row["key"],
            image=image,
            captions=tuple(row["captions"]),
            image_id=row["image_id"],
            split=self.split,
            source=row["source"],
            meta=json.loads(row["meta"]),
            more=tuple(more),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def check_cache_fits(self, window: int | None) -> None:
        """Check that the cache has room for the shards that training reads at once.

        Some processes may still read one window of shards while others read the next. The cache of
        a store therefore needs room for two windows, or for the whole split if no window is set.

        Raises:
            ShardError: the cache is too small.
        """
        if self.files.cache is None:
            return
        sizes = sorted(map(self.files.size, self.shard_names.unique().to_pylist()), reverse=True)
        limit, needed = self.files.cache.limit, sum(sizes[: 2 * window] if window else sizes)
        if needed > limit:
            unit = f"two windows of {window} shards" if window else "all shards"
            raise ShardError(
                f"{unit} of {self.name}, split {self.split}, need {needed / 2**30:.3g} GiB; "
                f"runtime.cache_gb is {limit / 2**30:.3g}: increase it, or decrease the training's "
                "window"
            )

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        self.files.close()

    def __reduce__(self) -> tuple[Any, ...]:
        cache, mapped = self.files.cache, self._mapped
        make = functools.partial(Shards, cache=cache, mapped=mapped)
        return make, (self.folder, self.split)


_READ = ("key", "shard", "offset", "size", "captions", "image_id", "source", "digest", "meta")
