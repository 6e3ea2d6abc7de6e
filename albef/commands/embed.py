"""``albef embed``: the features of a folder's images and captions, or of a dataset's split.

``docs/how-to/inspect-a-model.md`` lists the columns of the Parquet file.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from albef import runtime
from albef.data.image_decoding import ImageError, decode
from albef.data.image_formats import IMAGE_SUFFIXES, is_image_name
from albef.data.record import Record
from albef.data.shards import Shards
from albef.io import atomic
from albef.runtime.manifest import NAME
from albef.runtime.matching import Matching, as_matching
from albef.runtime.model import Floats, batches

Row = tuple[str, int, str | None]
"""Key, image_id and text."""


class Folder:
    """The images in a folder and its subfolders, sorted by name.

    The captions of an image are the lines of the ``.txt`` file with the same name, if there is one.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"folder {folder} does not exist")
        self._folder = folder
        self._paths = sorted(
            path for path in folder.rglob("*") if is_image_name(path.name) and path.is_file()
        )
        if not self._paths:
            raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        path = self._paths[i]
        captions = path.with_suffix(".txt")
        try:
            lines = captions.read_text(encoding="utf-8").splitlines() if captions.is_file() else []
        except UnicodeDecodeError as error:
            raise ValueError(f"{captions} is not UTF-8 text: {error}") from None
        return Record(
            key=path.relative_to(self._folder).as_posix(),
            image=path.read_bytes(),
            captions=tuple(line.strip() for line in lines if line.strip()),
            image_id=i,
            split="",
            source="",
        )


def main(folder: Path, split: str, weights: Path, device: str, out: Path) -> None:
    """Write the features of a folder of images, or of a dataset's split, and print their number.

    ``weights`` is a checkpoint or an export. An export does not need torch, and uses the device
    that ONNX Runtime finds.
    """
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: folder {out.parent} does not exist")
    records = Shards(folder, split) if (folder / "dataset.json").is_file() else Folder(folder)
    model = as_matching(load_model(weights, device), str(weights))
    with atomic(out) as part:
        images, texts = write_features(model, records, part)
    print(f"{images:,} images, {texts:,} texts")
    print(out)


def load_model(weights: Path, device: str) -> Any:
    """Load a checkpoint or an export."""
    if (weights / NAME).is_file():
        return runtime.load(weights)
    import torch

    from albef.export.torch_model import load

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(weights, device=device)


def write_features(model: Matching, records: Shards | Folder, out: Path) -> tuple[int, int]:
    """Write the features of all images, then of all captions; return the number of each."""
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
    texts: list[Row] = []
    with pq.ParquetWriter(out, schema, compression="zstd") as file:
        for part in _progress("images", len(records)):
            batch = [records[i] for i in range(len(records))[part]]
            rows: list[Row] = [(r.key, r.image_id, None) for r in batch]
            file.write_table(_table("image", rows, _embed_images(model, batch), schema))
            texts.extend((r.key, r.image_id, text) for r in batch for text in r.captions)
        for part in _progress("texts", len(texts)):
            feats = model.embed_text([str(text) for _, _, text in texts[part]])
            file.write_table(_table("text", texts[part], feats, schema))
    return len(records), len(texts)


def _progress(label: str, count: int) -> Iterator[slice]:
    with typer.progressbar(list(batches(count)), label=label, file=sys.__stderr__) as parts:
        yield from parts


def _table(kind: str, rows: list[Row], feats: Floats, schema: pa.Schema) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(feats.ravel()), feats.shape[1])
    columns = [[kind] * len(rows), *map(list, zip(*rows, strict=True)), vectors]
    return pa.table(columns, schema=schema)


def _embed_images(model: Matching, records: list[Record]) -> Floats:
    """Return the features of the records' images; an error has the key of its record."""
    try:
        return model.embed_image([record.image for record in records])
    except ImageError:
        for record in records:
            decode(record.image, record.key)
        raise
