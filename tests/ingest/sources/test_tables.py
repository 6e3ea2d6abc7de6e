"""Rows of TSV and CSV: each is read or told of, and none is swallowed by another."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason, Rejection
from albef.ingest.sources import tables

HEADER = ["a", "b"]


def read(
    folder: Path, held: bytes, form: str = "csv", header: list[str] | None = HEADER
) -> list[tuple[int, tuple[str, ...] | Reason]]:
    (folder / "t").write_bytes(held)
    found = tables.read(folder / "t", form, header, ["a", "b"])
    return [
        (row.line, row.reason if isinstance(row, Rejection) else tuple(row.values.values()))
        for row in found
    ]


def test_quotes_lines_and_endings(tmp_path: Path) -> None:
    assert read(tmp_path, b"a\0,1") == [(1, ("a\0", "1"))]  # cleaning takes it out
    held = b'\xef\xbb\xbfb,a\r\n1,2\r\n"x, ""y""\r\nz",3\r\n\r\n4,5'
    assert read(tmp_path, held, header=None) == [
        (2, ("2", "1")), (3, ("3", 'x, "y"\nz')), (6, ("5", "4"))
    ]  # fmt: skip
    assert read(tmp_path, b'"1\t2"\n', "tsv") == [(1, ('"1', '2"'))]


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    rows = b"".join(b"%d,x\n" % i for i in range(60))
    found = read(tmp_path, b'"open,1\n' + rows)
    assert found[0] == (1, Reason.MALFORMED_ROW)
    assert found[1:] == [(i + 2, (str(i), "x")) for i in range(60)]
    assert read(tmp_path, b'0,1\n2,"open\n3,4') == [
        (1, ("0", "1")), (2, Reason.MALFORMED_ROW), (3, ("3", "4"))
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [b"\xff\xfe,1", b"1", b"1,2,3", b'"a"b,1', b"x" * (2**20 + 9)])
def test_a_bad_row_between_good_ones(tmp_path: Path, bad: bytes) -> None:
    assert read(tmp_path, b"1,2\n" + bad + b"\n3,4\n") == [
        (1, ("1", "2")), (2, Reason.MALFORMED_ROW), (3, ("3", "4"))
    ]  # fmt: skip


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"t is UTF-16; save it as UTF-8"):
        read(tmp_path, "a,b\n".encode("utf-16"))
    with pytest.raises(ParamsError, match=r"t, line 1 .*: the row is not UTF-8"):
        read(tmp_path, b"a\xff\n", header=None)
    with pytest.raises(ParamsError, match=r"t has no column 'a'; did you mean ab\?"):
        read(tmp_path, b"ab,b", header=None)
    with pytest.raises(ParamsError, match=r"t has no column 'a'; it has none"):
        read(tmp_path, b"", header=None)
    with pytest.raises(ParamsError, match=r"t has no column 'a'; it has x{40}, x") as caught:
        read(tmp_path, b",".join([b"x" * 1000] * 900), header=None)
    assert len(str(caught.value)) < 1500
    with pytest.raises(ParamsError, match=r"t, line 1 .*: not CSV: a carriage return"):
        read(tmp_path, b"a,b\r1,2\r", header=None)
    with pytest.raises(ParamsError, match=r"t has 2 columns 'a'; rename all but one"):
        read(tmp_path, b"a,b,a\n1,2,3\n", header=None)
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * 3, ["a", "a", "b"]), tmp_path / "twice")
    with pytest.raises(ParamsError, match=r"twice has 2 columns 'a'"):
        list(tables.read(tmp_path / "twice", "parquet", None, ["a", "b"]))
    with pytest.raises(ParamsError, match=r"gone cannot be read: No such file"):
        list(tables.read(tmp_path / "gone", "tsv", HEADER, ["a"]))
