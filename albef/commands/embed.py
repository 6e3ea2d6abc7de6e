"""``albef embed``: the features of a folder's pictures and captions, or of a data set's split.

The columns of the Parquet file: ``kind`` ("image" or "text"), ``key`` (of the record, or the path
of the picture in the folder), ``image_id`` (equal where texts belong to pictures), ``text`` (null
where it is an image) and ``feature``, a unit vector. The product of an image's and a text's is the
similarity that evaluation ranks by.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from albef.data.image_decoding import ImageError, decode
from albef.data.record import Record
from albef.data.shards import Shards
from albef.export.torch_model import load
from albef.runtime.matching import Matching, matching
from albef.runtime.model import BATCH, Floats

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Names of pictures end in one of these, in small or capital letters."""
_SHOW_EVERY = 5.0  # seconds


class Records(Protocol):
    """What is embedded, read one by one."""

    def __len__(self) -> int:
        """Number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """The record at a place, from 0."""


class Folder:
    """The pictures in a folder and below, by name, each with the captions in a ``.txt`` beside it.

    A caption is a line of that file; a picture without one has none.

    Raises:
        ValueError: no such folder, or no picture in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        self._folder = folder
        self._paths = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not self._paths:
            raise ValueError(f"{folder} holds no picture, a file ending in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        path = self._paths[i]
        said = path.with_suffix(".txt")
        try:
            lines = said.read_text(encoding="utf-8").splitlines() if said.is_file() else []
        except UnicodeDecodeError as error:
            raise ValueError(f"{said} is no UTF-8 text ({error.reason} at {error.start})") from None
        return Record(
            key=path.relative_to(self._folder).as_posix(),
            image=path.read_bytes(),
            captions=tuple(line.strip() for line in lines if line.strip()),
            image_id=i,
            split="",
            source="",
        )


def main(folder: Path, split: str, checkpoint: Path, device: str, out: Path) -> None:
    """Write the features and print how many, and the path.

    Args:
        folder: of pictures, or of a data set.
        split: of a data set.
        checkpoint: its folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: the file to write.

    Raises:
        CheckpointError: no checkpoint, or one without image-text matching.
        ImageError: a picture cannot be decoded.
        ShardError: the data set has no such split, or is damaged.
        ValueError: no folder, or nothing in it.
    """
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}; make it first")
    records: Records
    records = Shards(folder, split) if (folder / "dataset.json").is_file() else Folder(folder)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = matching(load(checkpoint, device=device), str(checkpoint))
    images, texts = write(model, records, out)
    print(f"{images:,} pictures, {texts:,} texts")
    print(out)


def write(model: Matching, records: Records, out: Path) -> tuple[int, int]:
    """Write the features of all pictures, then of all captions; the file appears when it is whole.

    Returns:
        How many pictures and texts there were.
    """
    schema = pa.schema(
        [
            ("kind", pa.string()),
            ("key", pa.string()),
            ("image_id", pa.int64()),
            ("text", pa.string()),
            ("feature", pa.list_(pa.float32(), model.embed_dim)),
        ],
        metadata={"weights": model.digest},
    )
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as file:
            said: list[tuple[str, int, str]] = []
            for some in _batches(records):
                features = _images(model, some)
                keys, ids = [record.key for record in some], [record.image_id for record in some]
                file.write_table(_table(schema, "image", keys, ids, [None] * len(some), features))
                said += [(r.key, r.image_id, text) for r in some for text in r.captions]
            for start in range(0, len(said), BATCH):
                of, image_ids, texts = zip(*said[start : start + BATCH], strict=True)
                features = model.embed_text(texts)
                file.write_table(_table(schema, "text", of, image_ids, texts, features))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return len(records), len(said)


def _images(model: Matching, records: Sequence[Record]) -> Floats:
    try:
        return model.embed_image([record.image for record in records])
    except ImageError:
        for record in records:
            decode(record.image, record.key)  # raises with the key of the one that is broken
        raise


def _batches(records: Records) -> Iterator[list[Record]]:
    """All records; now and then a line on standard error says how far."""
    started = last = time.monotonic()
    for start in range(0, len(records), BATCH):
        yield [records[i] for i in range(start, min(start + BATCH, len(records)))]
        now, done = time.monotonic(), min(start + BATCH, len(records))
        if now - last > _SHOW_EVERY:
            last = now
            rate = done / (now - started)
            left = (len(records) - done) / rate
            print(
                f"{done:,} of {len(records):,} pictures, {rate:.0f} a second, {left:.0f} s left",
                file=sys.stderr,
            )


def _table(
    schema: pa.Schema,
    kind: str,
    keys: Sequence[str],
    image_ids: Sequence[int],
    texts: Sequence[str | None],
    features: Floats,
) -> pa.Table:
    width = features.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel(), pa.float32()), width)
    columns = [pa.array([kind] * len(keys)), pa.array(keys), pa.array(image_ids, pa.int64())]
    return pa.table([*columns, pa.array(texts, pa.string()), vectors], schema=schema)
