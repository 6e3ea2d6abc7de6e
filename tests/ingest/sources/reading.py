"""Sources of files as tests read them."""

import io
import tarfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from albef.config import validate
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.ingest.blocks import Blocks
from albef.ingest.config import IngestConfig, RowsConfig
from albef.ingest.duplicates import Comparison, compare, read_heldout
from albef.ingest.pool import prepare_rows
from albef.ingest.prepare import Rules
from albef.ingest.sources import kind_of, read_rows

Rows = list[Record | Rejection]


def config_of(kind: str, **values: Any) -> Any:
    sources = {"s": {"kind": kind, **values}}
    return validate(RowsConfig, {"sources": sources}, where="test").sources["s"]


def read(kind: str, scratch: Path = Path("unused"), **values: Any) -> Rows:
    source = config_of(kind, **values)
    return list(kind_of(source).records(source, 0, *[scratch] * (kind == "urls")))


def merged(folder: Path, kind: str, **values: Any) -> tuple[list[Record], int]:
    """The records of a source as ingest stores them, and the number of rows that are merged."""
    blocks, compared = compare_rows(folder, {"kind": kind, **values})
    return list(blocks.records(*compared[:2])), int(compared.merged.sum())


def compare_rows(folder: Path, source: dict[str, Any], **more: Any) -> tuple[Blocks, Comparison]:
    """The rows of a source, prepared and compared; ``more`` are values of the dataset."""
    config = validate(RowsConfig, {"sources": {"s": source}, **more}, where="test")
    rules = Rules(IngestConfig(heldout=["none"], min_side=1), None)
    blocks = Blocks(folder)
    rows = prepare_rows(read_rows("toy", config.sources, 0, folder), rules, 0)
    while block := list(islice(rows, 3)):
        blocks.write(block)
    return blocks, compare(blocks, config, None, read_heldout([]))


def good(rows: Iterable[Record | Rejection]) -> list[Record]:
    return [row for row in rows if isinstance(row, Record)]


def bad(rows: Iterable[Record | Rejection]) -> list[Rejection]:
    return [row for row in rows if isinstance(row, Rejection)]


def reasons(rows: Iterable[Record | Rejection]) -> list[tuple[str, Reason]]:
    return [(row.key, row.reason) for row in bad(rows)]


def write_tar(path: Path, *named: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in named:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
