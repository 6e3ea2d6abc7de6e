"""Tiny records and data sets for tests."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from albef.data.record import Record
from albef.data.store import Store
from albef.ingest import shard_writer

LICENCE = {"what": "pictures", "licence": "CC0", "attribution": "nobody", "url": "https://a.test"}


def picture(number: int, size: tuple[int, int] = (40, 32), kind: str = "PNG") -> bytes:
    """A picture whose colour says its number."""
    file = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 50)).save(file, kind)
    return file.getvalue()


def record(number: int, **changed: Any) -> Record:
    values: dict[str, Any] = {
        "key": f"toy-{number:04d}",
        "image": picture(number),
        "captions": (f"picture number {number}", "another caption"),
        "image_id": number,
        "split": "train",
        "source": "toy",
        "meta": {"z": [1.5, None], "a": "ü"},
    }
    return Record(**{**values, **changed})


def noisy(number: int, **changed: Any) -> Record:
    """A record of some 150 kB: six or seven fill a shard of 1 MiB."""
    noise = hashlib.shake_256(number.to_bytes(4, "big")).digest(150_000)
    file = io.BytesIO()
    Image.frombytes("RGB", (250, 200), noise).save(file, "PNG")
    return record(number, image=file.getvalue(), **changed)


def flip(path: Path, at: int | None = None) -> None:
    """Change a bit of a file, in its middle unless a place is named; what it is a link of stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.unlink()
    path.write_bytes(content)


def write(
    folder: Path, records: Iterable[Record], shard_mb: int = 1, store: str | None = None
) -> dict[str, Any]:
    return shard_writer.write(
        folder,
        folder.name,
        records,
        shard_mb=shard_mb,
        licences=[LICENCE],
        sources=[],
        store=Store(store) if store else None,
    )
