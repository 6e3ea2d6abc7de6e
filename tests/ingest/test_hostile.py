"""Rows that nobody means well by, over each kind of source: none ends an ingest."""

import io
import itertools
import json
import math
import os
import tarfile
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import validate
from albef.data.record import Record
from albef.ingest.blocks import Blocks
from albef.ingest.config import RowsConfig
from albef.ingest.duplicates import HELDOUT, Comparison
from albef.ingest.pool import NumberedRow, prepare_rows
from albef.ingest.quarantine import write_quarantine
from albef.ingest.sources import read_rows
from tests.data import toy
from tests.ingest.test_prepare import rules

Values = dict[str, Any]
Made = tuple[Values, int]
"""The section of a source, and its rows."""
TEXTS = [
    "", " ", "\0", "a\0b", "\ud800", "a\udfffb", "\u202eevil\u202c", "\u200f\u200e", "\ufeff",
    "\x1b[31m", "\r", "\n\n", "\x85\u2028", "é" * 5000, "a" * 10**6, "<script" * 9100,
    "<!doctype" * 7000, "&lt;" * 4000, "<" * 60_000, "../../etc/passwd", "/etc/passwd", "a/b/c.jpg",
    "C:\\a.jpg", ".", "..", "a.jpg/", "~", "%00", "NaN", "null", "=1+1", "$(id)", "{{7*7}}",
    "http://a..b/", f"http://{'a' * 64}.test/", "http://[::1", "http://\ud800/", "1" * 5000,
    f"{'1' * 5000}.jpg", f"{'1a' * 3000}.jpg", "☃" * 300, "\U000e0001tag", "ﷺ" * 200,
    "Z\u0351" * 500,
]  # fmt: skip
OTHERS: list[Any] = [
    None, True, False, 0, -1, 10**400, -(10**400), 1e308, math.nan, math.inf, [], [[]], [None],
    ["a", 1], [["a"]], {}, {"": ""}, {"a": {"b": [1, None]}}, {"a" * 3000: 1}, [1e400, -1e400],
    ["x"] * 20_000, {"box": [1, 2, 3, 4]}, [1, 2, 10**400, 4], [math.nan] * 4, [1, 2, 3],
    "[1,2,3,4]", [True] * 4, [[1, 2, 3, 4], 5], {"bytes": "x"},
]  # fmt: skip
PATHS = (
    "/etc/a", "../../b", "./c", "C:\\d", "e\nf", " ", "", "h" * 3000, "é" * 120, "i/../i", "/",
)  # fmt: skip
"""Of members of a tar, without their suffix."""
DEEP = "[" * 400 + "]" * 400
VALUES = [*TEXTS, *OTHERS]


def dumps(value: object) -> str:
    """JSON with numbers that no machine has, and a key that comes twice."""
    text = json.dumps(value)
    return text.replace(f"1{'0' * 400}", "1" * 5000).replace('{"": ""}', '{"a": 1, "a": []}')


def varied(row: Values) -> list[Any]:
    """The row with each value in turn replaced by each odd one; odd ones in its place; itself."""
    rows = [{**row, name: odd} for name in row for odd in VALUES]
    return [*rows, *({k: v for k, v in row.items() if k != name} for name in row), *OTHERS, row]


ANNOTATIONS: dict[str, Values] = {
    "captions": {"image": "a.jpg", "caption": ["a dog", "a cat"]},
    "vqa": {"image": "a.jpg", "question": "how many?", "question_id": 1, "answer": ["two", "2"],
            "dataset": "vqa"},
    "entailment": {"image": "a", "sentence": "a dog", "label": "neutral"},
    "nlvr2": {"images": ["a.jpg", "a.jpg"], "sentence": "two", "label": "True"},
    "grounding": {"image": "a.jpg", "text": "a dog", "ref_id": 1, "box": [1, 2, 9, 9, 0.5]},
}  # fmt: skip
"""A good row of each format."""
KARPATHY = {
    "filename": "a.jpg", "filepath": ".", "split": "train", "sentences": [{"raw": "a dog"}]
}  # fmt: skip


def annotations(form: str, here: Path) -> Made:
    (here / "a.jpg").write_bytes(toy.picture(1, kind="JPEG"))
    held = varied({**ANNOTATIONS[form], "extra": 1})
    text = f"[{', '.join(map(dumps, held))}]"
    (here / "rows.json").write_text(text)
    values: Values = {"kind": "annotations", "format": form, "images": str(here),
                      "files": {"train": [str(here / "rows.json")]}}  # fmt: skip
    if form == "grounding":
        (here / "boxes.json").write_text(dumps({str(i): odd for i, odd in enumerate(VALUES)}))
        values |= {"boxes": str(here / "boxes.json")}
    return values, len(held)


NAMES = (b"a\nb", b"c\td", "e\u0301".encode(), b"-rf", b"f'\"<>&", b"g\xff", b".", b"h" * 200)
"""Of files, without their suffix."""


def folder(here: Path) -> Made:
    root = here / "root"
    (root / "odd").mkdir(parents=True)
    for name in NAMES:
        for suffix, data in ((b".jpg", toy.picture(1)), (b".txt", b"a dog")):
            (root / "odd" / os.fsdecode(name + suffix)).write_bytes(data)
    for name in ("fifo", "loop", "gone"):  # a text is a folder, or hangs who reads it
        (root / "odd" / f"{name}.jpg").write_bytes(toy.picture(2))
    os.mkfifo(root / "odd/fifo.txt")
    (root / "odd/loop.txt").symlink_to("loop.txt")
    (root / "odd/gone.txt").mkdir()
    (root / "odd/again").symlink_to(root)
    for i, text in enumerate(TEXTS):
        name = text[:40].encode("utf-8", "replace").decode().replace("/", "").replace("\0", "")
        below = root / f"train{i}"
        below.mkdir(parents=True)
        for suffix, data in ((".jpg", toy.picture(i)), (".txt", text.encode(errors="replace"))):
            path = below / f"a{name}{suffix}"
            path.write_bytes(data)
    (root / "pipe.jpg").symlink_to("/dev/zero")
    (root / "odd/folder.jpg").mkdir()
    count = sum(name.endswith(".jpg") for _, _, names in os.walk(root) for name in names)
    return {"kind": "folder", "path": str(root), "split": None}, count


def webdataset(here: Path) -> Made:
    texts = [*map(dumps, varied({"caption": "a dog", "box": [1, 2, 3, 4], "proposals": []})), DEEP]
    named = {f"{i:05d}": text.encode() for i, text in enumerate(texts)}
    named |= dict.fromkeys(PATHS, b'\xef\xbb\xbf{"caption": "a dog"}')
    with tarfile.open(here / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in [*named.items(), *[("twice", b'{"caption": "a dog"}')] * 3]:
            for suffix, data in (("jpg", toy.picture(1, kind="JPEG")), ("json", text)):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                member.pax_headers = {"comment": "path=/etc/passwd\n12 path=x"}
                tar.addfile(member, io.BytesIO(data))
    return {"kind": "webdataset", "files": {"train": [str(here / "a.tar")]},
            "caption": "json.caption"}, len(named) + 3  # fmt: skip


def parquet(here: Path) -> Made:
    jpeg = toy.picture(1, kind="JPEG")
    image = {"bytes": jpeg, "path": "a"}
    raw = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
    columns: list[Any] = [
        pa.array(raw, pa.binary()).view(pa.string()),
        pa.array([[text] for text in raw], pa.list_(pa.binary())),
        pa.array([True, None, False]),
        pa.array([math.nan, math.inf, None]),
        pa.array([date(1, 1, 1), date(9999, 12, 31)]),
        pa.array([Decimal("1e30"), None], pa.decimal128(38, 2)),
        pa.array([[["a"], None], [], None]),
        pa.array([["x"] * 20_000, []]),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array([["a"], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([["a"], []], pa.large_list(pa.string())),
        pa.array([[("a", "b")], []], pa.map_(pa.string(), pa.string())),
        pa.nulls(2),
        pa.array([np.float16(1), np.float16("nan")]),
        pa.array([1, 2**62], pa.timestamp("us", "Nowhere/Nope")),
    ]
    images: list[Any] = [
        pa.array([b"", None]),
        pa.array([jpeg, b"x"], pa.large_binary()),
        pa.array([jpeg, None], pa.binary_view()),
        pa.array([jpeg] * 2).dictionary_encode(),
        pa.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": jpeg, "path": "a\nb"}]),
        pa.array(["a.jpg", None]),
        pa.nulls(2),
    ]
    held = [([image] * len(column), column) for column in columns]
    held += [(pictures, pa.array(["a dog", "b"])) for pictures in images]
    for i, (pictures, column) in enumerate(held):
        values = {"image": pictures, "text": column, "more": column}
        pq.write_table(pa.table(values), here / f"{i:02d}.parquet")
    return {"kind": "parquet", "files": {"train": [str(here / "*.parquet")]}, "image": "image",
            "captions": ["text"], "keep": ["more"]}, sum(map(len, [*columns, *images]))  # fmt: skip


SOURCES = [
    *(pytest.param(partial(annotations, form), id=form) for form in ANNOTATIONS),
    folder, webdataset, parquet,
]  # fmt: skip


def settled(folder: Path, rows: Iterable[NumberedRow]) -> tuple[list[Record], int]:
    """Rows as far as shards and quarantine: the records that are kept, and how many are not."""
    strict = rules(24, near_distance=2)
    blocks = Blocks(folder / "blocks")
    blocks.write(list(prepare_rows(rows, strict, 0)))
    none = HELDOUT.empty_table()
    alone = Comparison({}, np.arange(blocks.starts[-1]), [])
    aside = write_quarantine(folder, blocks, alone, none, strict.limits).total()
    return list(blocks.records()), aside


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", SOURCES)
def test_every_row_ends_in_one_place(tmp_path: Path, make: Any) -> None:
    values, count = make(tmp_path)
    config = validate(RowsConfig, {"sources": {"s": values}}, where="test")
    rows = list(read_rows("toy", config.sources, 0, tmp_path / "scratch"))
    kept, aside = settled(tmp_path, rows)
    assert len(kept) + aside == len(rows) == count
    assert 0 < aside < count
    for record in kept:
        json.dumps(record.meta, allow_nan=False).encode()
        assert all(map(str.strip, itertools.chain(record.captions, [record.key])))
    details = pq.read_table(tmp_path / "quarantine.parquet")["detail"].to_pylist()
    assert max(map(len, details)) <= 8000
