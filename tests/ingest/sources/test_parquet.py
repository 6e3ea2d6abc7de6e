"""Pictures in Parquet files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason, Rejection
from albef.ingest.sources import tables
from albef.worker import Worker
from tests.data import toy
from tests.ingest.sources.reading import Rows, bad, good, reasons
from tests.ingest.sources.reading import read as read_source


def read(file: Path, **changed: Any) -> Rows:
    values = {"files": {"train": [str(file)]}, "image": "image", "captions": ["caption"], **changed}
    return read_source("parquet", **values)


def image(number: int) -> dict[str, Any]:
    return {"bytes": toy.picture(number), "path": f"{number}.png"}


def test_images_and_captions_as_hugging_face_has_them(tmp_path: Path) -> None:
    table = {
        "image": [image(0), image(1), {"bytes": None, "path": "far.png"}, None],
        "caption": [["one", " ", "two"], ["three"], ["x"], ["x"]],
        "title": ["first", None, "x", "x"],
        "id": [7, 8, 9, 10],
    }
    pq.write_table(pa.table(table), tmp_path / "train-0.parquet")
    rows = read(tmp_path / "train-*.parquet", captions=["caption", "title"], keep=["id"])
    first, second = good(rows)
    assert (first.captions, first.image) == (("one", "two", "first"), toy.picture(0))
    assert (second.captions, second.key) == (("three",), "train-00000001")
    assert second.meta == {"id": 8, "path": "train-0.parquet:2"}
    far, none = bad(rows)
    assert (far.line, far.reason) == (3, Reason.MISSING_FIELD)
    assert far.detail.endswith("'image' has no bytes, only the path far.png")
    assert none.key == "train-0.parquet:4"


def test_a_list_of_images_gives_its_first_or_a_row_of_each(tmp_path: Path) -> None:
    lists = [[image(0), image(1)], [], [{"bytes": None, "path": "far.png"}, image(2)], None]
    table = {"image": lists, "caption": [["one"], ["two"], ["three"], ["four"]]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    first = read(tmp_path / "a.parquet")
    assert [(row.image, row.captions) for row in good(first)] == [(toy.picture(0), ("one",))]
    assert [row.line for row in bad(first)] == [2, 3, 4]
    each = read(tmp_path / "a.parquet", images="each")
    assert [(row.image, row.captions[0]) for row in good(each)] == [
        (toy.picture(0), "one"), (toy.picture(1), "one"), (toy.picture(2), "three")
    ]  # fmt: skip
    assert [row.image_id for row in good(each)] == [0, 1, 2]
    paths = [row.meta["path"] for row in good(each)]
    assert paths == ["a.parquet:1:1", "a.parquet:1:2", "a.parquet:3:2"]
    assert reasons(each) == [(f"a.parquet:{n}", Reason.MISSING_FIELD) for n in ("2:1", "3:1", "4")]


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = pa.table({"image": [image(i) for i in range(9)], "caption": list("abcdefghi")})
    pq.write_table(table, file, row_group_size=3, use_dictionary=False)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    held = bytearray(file.read_bytes())
    start = column.data_page_offset
    held[start : start + column.total_compressed_size] = b"\xee" * column.total_compressed_size
    file.write_bytes(held)
    rows = read(file)
    assert [row.captions[0] for row in good(rows)] == list("abcghi")
    assert [(row.line, row.reason) for row in bad(rows)] == [
        (line, Reason.DAMAGED_MEMBER) for line in (4, 5, 6)
    ]


def write(file: Path, captions: Any, **options: Any) -> None:
    table = pa.table({"image": [toy.picture(1)] * len(captions), "caption": captions})
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=2**30, **options)


@pytest.mark.slow
def test_memory_of_the_reader_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    monkeypatch.setattr(tables, "_IDLE", [])
    monkeypatch.setattr(tables, "_MEMORY", 2**28)
    many, ends = pa.array([0] * 500, pa.int32()), pa.array([0, 500], pa.int32())
    texts = pa.DictionaryArray.from_arrays(many, ["x" * 2**20])  # 500 MB in a few bytes
    inner = pa.ListArray.from_arrays(ends, texts)
    for captions in (
        inner,
        pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), inner),
        pa.StructArray.from_arrays([inner], ["a"]),
        pa.MapArray.from_arrays(ends, pa.array(range(500)), texts),
        pa.LargeListArray.from_arrays(ends.cast(pa.int64()), texts),
        pa.FixedSizeListArray.from_arrays(texts, 500),
    ):
        write(file, captions)
        [rejection] = bad(read(file))
        assert "500 values of 524288000 bytes" in rejection.detail, captions.type
    write(file, inner, store_schema=False)
    assert [row.reason for row in bad(read(file))] == [Reason.TOO_MANY_BYTES]
    write(file, [["a"] * 10_001, ["b"]])
    assert [row.reason for row in bad(read(file))] == [Reason.MALFORMED_ROW]
    write(file, pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), ["x" * 2**23]))
    rows = tables.read(file, "parquet", None, ["image", "caption"], 40)
    # Together they do not fit, so they are read one by one.
    assert sum(not isinstance(row, Rejection) for row in rows) == 40
    for value, count in (("x" * 2**19, 0), ("x" * 2**21, 1), (["x" * 2**18] * 5, 1)):
        pq.write_table(pa.table({"image": [b"x"], "caption": ["a"], "more": [value]}), file)
        refused = [row.reason for row in bad(read(file, keep=["more"]))]
        assert refused == [Reason.TOO_MANY_BYTES] * count
    write(file, ["x" * 2**27, "y"], use_dictionary=False)
    assert [row.reason for row in bad(read(file))] == [Reason.TOO_MANY_BYTES]
    nothing = pa.nulls(2_000_000, pa.string())
    pq.write_table(pa.table({"image": nothing, "caption": nothing}), file)
    with pytest.raises(ParamsError, match="claims 2000000 rows"):
        read(file)
    tables._IDLE[0].close()


@pytest.mark.parametrize(
    "nest", [lambda value: value, lambda value: {"bytes": value}, lambda value: [value]]
)
def test_a_value_that_is_too_large_stays_in_the_reader(tmp_path: Path, nest: Any) -> None:
    """The process that receives the values has no limit on its memory."""
    values = [nest(bytes(2**26 + 1)), nest(toy.picture(1))]
    pq.write_table(pa.table({"image": values, "caption": ["a", "b"]}), tmp_path / "a.parquet")
    large, small = tables.read(tmp_path / "a.parquet", "parquet", None, ["image", "caption"])
    assert isinstance(large, Rejection)
    assert large.reason == Reason.TOO_MANY_BYTES
    assert "a value has 67108865 bytes; at most 67108864 are read" in large.detail
    assert not isinstance(small, Rejection)
    assert small.values == {"image": nest(toy.picture(1)), "caption": "b"}


def test_the_footer_is_read_once_for_all_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time would be quadratic in their number."""
    monkeypatch.setattr(tables, "_IDLE", [])
    sizes = []
    for groups in (1, 400):
        table = pa.table({"image": [b"x"] * groups, "caption": ["a"] * groups})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
        assert len(read(tmp_path / "a.parquet")) == groups
        [worker] = tables._IDLE
        told = Path(f"/proc/{worker._process.pid}/io").read_text()
        sizes.append(int(told.split()[1]))  # bytes read
    # The end of the file is read anew once, and the rest by column.
    assert sizes[1] - sizes[0] < 2**20
    worker.close()


def nothing() -> list[None]:
    return []


def test_a_reader_may_have_imported_arrow_before_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is in a stage, which is the main module of its processes."""
    write(tmp_path / "a.parquet", ["a dog"])
    worker = Worker(60, 2**30)
    monkeypatch.setattr(tables, "_IDLE", [worker])
    assert not list(worker.run(nothing))
    assert good(read(tmp_path / "a.parquet"))
    worker.close()


def test_a_reader_that_ends_costs_its_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, image = tmp_path / "a.parquet", bytes(2**17)
    table = pa.table({"image": [image] * 90, "caption": ["a"] * 90})
    pq.write_table(table, file, row_group_size=30, compression="none", use_dictionary=False)
    worker = Worker(60)
    monkeypatch.setattr(tables, "_IDLE", [worker])
    rows = tables.read(file, "parquet", None, ["image", "caption"], 4)
    made = [next(rows)]
    worker._process.kill()  # It waits until more rows are taken.
    made += rows
    assert [row.line for row in made] == [*range(1, 91)]
    lost = [row for row in made if isinstance(row, Rejection)]
    assert {row.reason for row in lost} == {Reason.KILLED}
    assert 0 < len(lost) < 30
    assert {row.line for row in lost} == {*range(31 - len(lost), 31)}
    worker.close()
    monkeypatch.setattr(tables, "_IDLE", [Worker(1e-6)])
    with pytest.raises(ParamsError, match="cannot be read as Parquet: the reader took more than"):
        next(tables.read(file, "parquet", None, ["image"]))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no end")
    with pytest.raises(ParamsError, match=r"a.parquet cannot be read as Parquet"):
        read(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"x"], "text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(ParamsError, match=r"b.parquet has no column 'caption'; it has image, text"):
        read(tmp_path / "b.parquet")
