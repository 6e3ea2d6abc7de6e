"""Shards that are there already: samples, what is missing of them, and img2dataset's tables."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.refusal import Reason, Refusal
from albef.ingest.sources import webdataset
from tests.data import toy

SAMPLE = Path(__file__).parents[2] / "fixtures" / "img2dataset"
"""A shard that img2dataset 1.47.0 wrote on pyspark 4.3.0; its pictures are plain colours."""


def read(*files: Path, **changed: Any) -> list[Record | Refusal]:
    values: dict[str, Any] = {
        "kind": "webdataset", "files": {"train": [str(file) for file in files]}, "caption": "txt",
        "keep": None, "statuses": False,
    }  # fmt: skip
    config = webdataset.Config.model_validate({**values, **changed})
    return list(webdataset.records(config, 0))


def write(path: Path, *named: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in named:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(i: int, **more: Any) -> list[tuple[str, bytes]]:
    told = json.dumps({"caption": f"number {i}", "url": f"http://a.test/{i}", **more})
    return [
        (f"{i:04d}.jpg", toy.picture(i, kind="JPEG")),
        (f"{i:04d}.json", told.encode()),
        (f"{i:04d}.txt", f"number {i}".encode()),
    ]


def refusals(found: list[Record | Refusal]) -> list[tuple[str, Reason]]:
    return [(row.key, row.reason) for row in found if isinstance(row, Refusal)]


def captions(found: list[Record | Refusal]) -> list[str]:
    return [row.captions[0] for row in found if isinstance(row, Record)]


def test_what_img2dataset_wrote_on_spark() -> None:
    found = read(SAMPLE / "*.tar", statuses=True)
    good = [row for row in found if isinstance(row, Record)]
    assert captions(found) == ['with "quotes"', "last"]
    assert (good[0].key, good[1].image_id) == ("train-00000000", 1)
    assert good[0].image[:2] == b"\xff\xd8"
    told = good[0].meta
    assert (told["status"], told["similarity"], told["original_width"]) == ("success", 1.2, 40)
    bad = [row for row in found if isinstance(row, Refusal)]
    assert Counter(row.reason for row in bad) == {
        Reason.OPTED_OUT: 1, Reason.UNDECODABLE: 1, Reason.UNREACHABLE: 2, Reason.TIMED_OUT: 1
    }  # fmt: skip
    assert bad[0].line == 1
    assert bad[0].key.endswith("/robots/noai")
    assert "Use of image disallowed by X-Robots-Tag directive" in bad[0].detail
    assert len(found) == 7, "every row of its table is somewhere"


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", Reason.NOT_FOUND),
        ("failed_to_download", "HTTP Error 403: Forbidden", Reason.HTTP_ERROR),
        ("failed_to_download", "<urlopen error _ssl.c: handshake timed out>", Reason.TIMED_OUT),
        ("failed_to_download", "<urlopen error unknown url type: x>", Reason.BAD_URL),
        ("failed_to_download", "<urlopen error [Errno -2] Name or", Reason.UNREACHABLE),
        ("failed_to_resize", "Image decoding error", Reason.UNDECODABLE),
        ("failed_to_resize", "image too small", Reason.TOO_SMALL),
        ("failed_to_resize", "aspect ratio too large", Reason.TOO_ELONGATED),
    ],
)
def test_what_its_messages_mean(status: str, message: str, reason: Reason) -> None:
    assert webdataset._reason(status, message) == reason


def test_members_that_are_not_expected_are_never_looked_at(tmp_path: Path) -> None:
    evil = [("0000.pkl", b"cos\nsystem\n"), ("0000.pyd", b"x"), ("x.sh", b"#!"), ("0000.cls", b"1")]
    shard = write(tmp_path / "a.tar", *sample(0)[:1], *evil, *sample(0)[1:], *sample(1))
    assert captions(read(shard)) == ["number 0", "number 1"]
    assert not refusals(read(shard))


def test_captions_out_of_the_json_and_what_is_kept(tmp_path: Path) -> None:
    shard = write(tmp_path / "a.tar", *sample(0, tags=["one", "two"], odd=1e400))
    [row] = read(shard, caption="json.tags", keep=["url", "odd", "none"])
    assert isinstance(row, Record)
    assert row.captions == ("one", "two")
    assert row.meta == {"url": "http://a.test/0", "odd": None, "path": "a.tar/0000"}


def test_samples_that_lack_something(tmp_path: Path) -> None:
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    shard = write(
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
        *sample(1),
    )  # fmt: skip
    found = read(shard)
    assert captions(found) == ["number 0", "number 1"]
    assert refusals(found) == [
        ("a", Reason.MISSING_FILE), ("b", Reason.NO_CAPTION), ("c", Reason.NO_CAPTION),
        ("d", Reason.MALFORMED_ROW), ("e", Reason.MALFORMED_ROW), ("f", Reason.MALFORMED_ROW),
        ("g", Reason.MALFORMED_ROW), ("h", Reason.MALFORMED_ROW),
    ]  # fmt: skip
    assert [row.line for row in found if isinstance(row, Refusal)] == list(range(2, 10))


def test_one_name_in_two_folders_is_two_samples(tmp_path: Path) -> None:
    named = [(f"{folder}/{name}", data) for folder in "ab" for name, data in sample(3)]
    assert captions(read(write(tmp_path / "a.tar", *named))) == ["number 3"] * 2


@pytest.mark.parametrize("member", range(9))
def test_a_damaged_member_is_one_refusal(tmp_path: Path, member: int) -> None:
    shard = write(tmp_path / "a.tar", *sample(0), *sample(1), *sample(2))
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[member].offset
    held = bytearray(shard.read_bytes())
    held[at + 2] ^= 0xFF
    shard.write_bytes(held)
    found = read(shard)
    assert [reason for _, reason in refusals(found)] == [Reason.DAMAGED_MEMBER]
    lost = member // 3 if member % 3 != 1 else None  # the JSON is not needed
    assert captions(found) == [f"number {i}" for i in range(3) if i != lost]
    [bad] = [row for row in found if isinstance(row, Refusal)]
    assert bad.detail == f"{shard}, byte {at}: no header of a tar member"


def test_a_shard_that_was_cut_is_counted_by_its_table(tmp_path: Path) -> None:
    shard = tmp_path / "00001.tar"
    shard.write_bytes((SAMPLE / "00001.tar").read_bytes()[:1700])
    (tmp_path / "00001.parquet").write_bytes((SAMPLE / "00001.parquet").read_bytes())
    found = read(shard, statuses=True)
    bad = [row for row in found if isinstance(row, Refusal)]
    damaged = [row for row in bad if row.reason == Reason.DAMAGED_MEMBER]
    assert [row.detail.startswith(f"{shard}, byte") for row in damaged] == [True, False]
    assert "000016 was downloaded and is not in 00001.tar" in damaged[1].detail
    assert len(found) == 7


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"none-\*.tar names no file"):
        read(tmp_path / "none-*.tar")
    shard = write(tmp_path / "a.tar", *sample(0))
    with pytest.raises(ParamsError, match=r"a.parquet is missing; without such tables write"):
        read(shard, statuses=True)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_is_too_odd(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shard = write(tmp_path_factory.mktemp("odd") / "a.tar", *sample(0), *sample(1))
    held = bytearray(shard.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(held) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=30))
        held[at : at + len(piece)] = piece
    shard.write_bytes(held)
    for row in read(shard):
        json.dumps(row.meta if isinstance(row, Record) else row.detail, ensure_ascii=False).encode()
