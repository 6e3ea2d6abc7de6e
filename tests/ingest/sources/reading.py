"""Sources of files as tests read them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from albef.config import validate
from albef.data.record import Record
from albef.data.rejection import Reason, Rejection
from albef.ingest.config import RowsConfig
from albef.ingest.sources import kind_of

Rows = list[Record | Rejection]


def config_of(kind: str, **values: Any) -> Any:
    sources = {"s": {"kind": kind, **values}}
    return validate(RowsConfig, {"sources": sources}, where="test").sources["s"]


def read(kind: str, scratch: Path = Path("unused"), **values: Any) -> Rows:
    source = config_of(kind, **values)
    return list(kind_of(source).records(source, 0, *[scratch] * (kind == "urls")))


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
