"""Shards that are there already: samples, and what is missing of them."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason
from tests.data import toy
from tests.ingest.sources.reading import Rows, bad, good, reasons, write_tar
from tests.ingest.sources.reading import read as read_source

SAMPLE = Path(__file__).parents[2] / "fixtures" / "img2dataset"
"""A shard that img2dataset 1.47.0 wrote on pyspark 4.3.0; its pictures are plain colours."""


def read(*files: Path, **changed: Any) -> Rows:
    return read_source("webdataset", files={"train": [str(file) for file in files]}, **changed)


def sample(i: int, **more: Any) -> list[tuple[str, bytes]]:
    values = json.dumps({"caption": f"number {i}", "url": f"http://a.test/{i}", **more})
    return [
        (f"{i:04d}.jpg", toy.picture(i, kind="JPEG")),
        (f"{i:04d}.json", values.encode()),
        (f"{i:04d}.txt", f"number {i}".encode()),
    ]


def captions(rows: Rows) -> list[str]:
    return [row.captions[0] for row in good(rows)]


def test_what_img2dataset_wrote_on_spark() -> None:
    rows = read(SAMPLE / "*.tar")
    assert captions(rows) == ['with "quotes"', "last"]
    first, last = good(rows)
    assert (first.key, last.image_id) == ("train-00000000", 1)
    assert first.image[:2] == b"\xff\xd8"
    values = [first.meta[name] for name in ("status", "similarity", "original_width")]
    assert values == ["success", 1.2, 40]
    assert not bad(rows)


def test_members_that_are_not_expected_are_never_looked_at(tmp_path: Path) -> None:
    evil = [("0000.pkl", b"cos\nsystem\n"), ("0000.pyd", b"x"), ("x.sh", b"#!"), ("0000.cls", b"1")]
    rows = read(write_tar(tmp_path / "a.tar", *sample(0)[:1], *evil, *sample(0)[1:], *sample(1)))
    assert captions(rows) == ["number 0", "number 1"]
    assert not bad(rows)


def test_captions_out_of_the_json_and_what_is_kept(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", *sample(0, tags=["one", "two"], odd=1e400))
    [row] = good(read(shard, caption="json.tags", keep=["url", "odd", "none"]))
    assert row.captions == ("one", "two")
    assert row.meta == {"url": "http://a.test/0", "odd": None, "path": "a.tar/0000"}


def test_samples_that_lack_something(tmp_path: Path) -> None:
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    shard = write_tar(
        tmp_path / "a.tar",
        *sample(0),
        ("a.txt", b"no picture"),
        ("b.jpg", b"x"),
        ("c.jpg", b"x"), ("c.txt", b" \n"),
        ("d.jpg", b"x"), ("d.txt", b"\xff\xfe"),
        ("e.jpg", b"x"), ("e.txt", b"x"), ("e.json", b"{"),
        ("f.jpg", b"x"), ("f.txt", b"x"), ("f.json", b"[]"),
        ("g.jpg", b"x"), ("g.txt", b"x"), ("g.json", deep),
        ("h.jpg", b"x"), ("h.txt", b"x" * (2**20 + 1)),
        (".jpg", b"x"), ("i.txt", b"of no picture"),
        *sample(1),
    )  # fmt: skip
    found = read(shard)
    assert captions(found) == ["number 0", "number 1"]
    assert reasons(found) == [
        ("a", Reason.MISSING_FILE), ("b", Reason.NO_CAPTION), ("c", Reason.NO_CAPTION),
        ("d", Reason.MALFORMED_ROW), ("e", Reason.MALFORMED_ROW), ("f", Reason.MALFORMED_ROW),
        ("g", Reason.MALFORMED_ROW), ("h", Reason.TOO_MANY_BYTES),
        ("", Reason.NO_CAPTION), ("i", Reason.MISSING_FILE),
    ]  # fmt: skip
    assert [row.line for row in bad(found)] == list(range(2, 12))


def test_one_name_in_two_folders_is_two_samples(tmp_path: Path) -> None:
    named = [(f"{folder}/{name}", data) for folder in "ab" for name, data in sample(3)]
    assert captions(read(write_tar(tmp_path / "a.tar", *named))) == ["number 3"] * 2


@pytest.mark.parametrize("member", [0, 4, 8])
def test_a_damaged_member_is_one_refusal(tmp_path: Path, member: int) -> None:
    shard = write_tar(tmp_path / "a.tar", *sample(0), *sample(1), *sample(2))
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[member].offset
    held = bytearray(shard.read_bytes())
    held[at + 2] ^= 0xFF
    shard.write_bytes(held)
    rows = read(shard)
    lost = member // 3 if member % 3 != 1 else None  # the JSON is not needed
    assert captions(rows) == [f"number {i}" for i in range(3) if i != lost]
    [rejection] = bad(rows)
    assert rejection.reason == Reason.DAMAGED_MEMBER
    assert rejection.detail == f"{shard}, byte {at}: not a tar header"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no file matches .*none-\*.tar"):
        read(tmp_path / "none-*.tar")
