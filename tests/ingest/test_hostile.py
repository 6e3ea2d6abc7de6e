"""Rows that nobody means well by, over each kind of source: none ends an ingest."""

import csv
import itertools
import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import validate
from albef.ingest.blocks import Blocks
from albef.ingest.download import downloads
from albef.ingest.download.client import Answer
from albef.ingest.duplicates import HELDOUT
from albef.ingest.pool import prepared
from albef.ingest.quarantine import write_quarantine
from albef.ingest.sources import SourcesConfig, read_rows
from tests.data import toy
from tests.ingest.download.test_client import LIMITS as DOWNLOAD
from tests.ingest.sources.reading import write_tar
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


def annotations(here: Path, form: str, **row: Any) -> Made:
    (here / "a.jpg").write_bytes(toy.picture(1, kind="JPEG"))
    held = varied({**row, "extra": 1})
    text = f"[{', '.join(map(dumps, held))}]"
    (here / "rows.json").write_text(text)
    values: Values = {"kind": "annotations", "format": form, "images": str(here),
                      "files": {"train": [str(here / "rows.json")]}}  # fmt: skip
    if form == "grounding":
        (here / "boxes.json").write_text(dumps({str(i): odd for i, odd in enumerate(VALUES)}))
        values |= {"boxes": str(here / "boxes.json")}
    return values, len(held)


def grounding(here: Path) -> Made:
    return annotations(here, "grounding", image="a.jpg", text="a dog", ref_id=1, box=[1, 2, 9, 9])


def proposals(here: Path) -> Made:
    images = [f"{i}.jpg" for i in range(len(VALUES))]
    for name in images:
        (here / name).write_bytes(toy.picture(1, kind="JPEG"))
    (here / "dets.json").write_text(dumps({str(i): odd for i, odd in enumerate(VALUES)}))
    rows = [{"image": name, "text": "a", "ref_id": 1, "box": [1, 2, 9, 9]} for name in images]
    (here / "rows.json").write_text(json.dumps(rows))
    return {"kind": "annotations", "format": "grounding", "images": str(here),
            "files": {"test": [str(here / "rows.json")]},
            "proposals": str(here / "dets.json")}, len(rows)  # fmt: skip


def vqa(here: Path) -> Made:
    row = {"question_id": 1, "answer": ["two", "2"], "dataset": "vqa"}
    return annotations(here, "vqa", image="a.jpg", question="how many?", **row)


def nlvr2(here: Path) -> Made:
    return annotations(here, "nlvr2", images=["a.jpg", "a.jpg"], sentence="two", label="True")


def entailment(here: Path) -> Made:
    return annotations(here, "entailment", image="a", sentence="a dog", label="neutral")


def captions(here: Path) -> Made:
    return annotations(here, "captions", image="a.jpg", caption=["a dog"])


def karpathy(here: Path) -> Made:
    (here / "a.jpg").write_bytes(toy.picture(1, kind="JPEG"))
    row = {"filename": "a.jpg", "filepath": ".", "split": "train", "sentences": [{"raw": "a dog"}]}
    held = [*varied(row), *({**row, "sentences": [odd]} for odd in VALUES)]
    held += [{**row, "sentences": [{"raw": odd}]} for odd in VALUES]
    (here / "rows.json").write_text(f'{{"images": [{", ".join(map(dumps, held))}]}}')
    return {"kind": "karpathy", "file": str(here / "rows.json"), "images": str(here),
            "splits": ["train", "val", "test"]}, len(held)  # fmt: skip


def folder(here: Path) -> Made:
    root = here / "root"
    for i, text in enumerate(TEXTS):
        name = text[:40].encode("utf-8", "replace").decode().replace("/", "").replace("\0", "")
        below = root / f"train{i}"
        below.mkdir(parents=True)
        for suffix, data in ((".jpg", toy.picture(i)), (".txt", text.encode(errors="replace"))):
            path = below / f"a{name}{suffix}"
            path.write_bytes(data)
    (root / "pipe.jpg").symlink_to("/dev/zero")
    count = len(list(root.rglob("*.jpg")))
    return {"kind": "folder", "path": str(root), "split": None}, count


def webdataset(here: Path) -> Made:
    texts = [*map(dumps, varied({"caption": "a dog", "box": [1, 2, 3, 4], "proposals": []})), DEEP]
    members = [
        (f"{i:05d}.{suffix}", data)
        for i, text in enumerate(texts)
        for suffix, data in (("jpg", toy.picture(1, kind="JPEG")), ("json", text.encode()))
    ]
    shard = write_tar(here / "a.tar", *members)
    return {"kind": "webdataset", "files": {"train": [str(shard)]}, "caption": "json.caption"}, (
        len(texts)
    )


def parquet(here: Path) -> Made:
    image = {"bytes": toy.picture(1, kind="JPEG"), "path": "a"}
    raw = [text.encode("utf-8", "surrogatepass") for text in TEXTS]
    columns: list[Any] = [
        pa.array(raw, pa.binary()).view(pa.string()),
        pa.array([[text] for text in raw], pa.list_(pa.binary())),
        pa.array([True, None, False]),
        pa.array([math.nan, math.inf, None]),
        pa.array([date(1, 1, 1), date(9999, 12, 31)]),
        pa.array([2**62, -(2**62)], pa.timestamp("us")),
        pa.array([Decimal("1e30"), None], pa.decimal128(38, 2)),
        pa.array([[["a"], None], [], None]),
        pa.array([{"a": b"\xff"}, {"a": None}]),
        pa.array([["x"] * 20_000, []]),
        pa.array(["a", "b"]).dictionary_encode(),
    ]
    for i, column in enumerate(columns):
        held = {"image": [image] * len(column), "text": column, "more": column}
        pq.write_table(pa.table(held), here / f"{i:02d}.parquet")
    pq.write_table(pa.table({"image": [b"", None], "text": ["a", "b"], "more": [1, 2]}),
                   here / "99.parquet")  # fmt: skip
    return {"kind": "parquet", "files": {"train": [str(here / "*.parquet")]}, "image": "image",
            "captions": ["text"], "keep": ["more"]}, sum(map(len, columns)) + 2  # fmt: skip


def table(here: Path, good: str = "a.jpg", column: str = "image") -> Made:
    (here / "a.jpg").write_bytes(toy.picture(1, kind="JPEG"))
    texts = [text for text in TEXTS if not {"\r", "\n"} & set(text) and text]
    with (here / "list.csv").open("w", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([[column, "text"], *([t, "a dog"] for t in texts)])
        writer.writerows([good, text] for text in texts)
    return {"kind": "table", "files": [str(here / "list.csv")], "format": "csv", column: column,
            "images": str(here), "caption": "text", "keep": ["text"]}, 2 * len(texts)  # fmt: skip


def urls(here: Path) -> Made:
    values, count = table(here, "http://a.test/", "url")
    del values["images"]
    download = DOWNLOAD.model_dump() | {"attempts": 1}
    return values | {"kind": "urls", "split": "train", "download": download}, count


SOURCES = [captions, vqa, entailment, nlvr2, grounding, proposals, karpathy, folder, webdataset,
           parquet, table, urls]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", SOURCES)
def test_every_row_ends_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    real = downloads.client.fetch

    async def fetch(client: Any, url: str, limits: Any) -> Answer:
        if url == "http://a.test/":  # no name server is asked
            return Answer(None, body=toy.picture(1, kind="JPEG"))
        return await real(client, url, limits)

    monkeypatch.setattr(downloads.client, "fetch", fetch)
    values, count = make(tmp_path)
    config = validate(SourcesConfig, {"sources": {"s": values}}, where="test")
    strict = rules(24, near_distance=2)
    rows = list(read_rows("toy", config.sources, 0, tmp_path / "scratch"))
    blocks = Blocks(tmp_path / "blocks")
    blocks.write(list(prepared(rows, strict, 0)))
    none = HELDOUT.empty_table()
    aside = write_quarantine(tmp_path, blocks, {}, [], none, strict.limits).total()
    kept = [record for _, record in blocks.records(0) if record]
    assert len(kept) + aside == len(rows) == count
    assert 0 < aside < count
    for record in kept:
        json.dumps(record.meta, allow_nan=False).encode()
        assert all(map(str.strip, itertools.chain(record.captions, [record.key])))
    details = pq.read_table(tmp_path / "quarantine.parquet")["detail"].to_pylist()
    assert max(map(len, details)) <= 8000
