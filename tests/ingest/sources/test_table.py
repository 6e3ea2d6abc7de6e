"""Tables of local pictures."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason
from tests.data import toy
from tests.ingest.sources import reading
from tests.ingest.sources.reading import Rows, bad, good, reasons


def read(here: Path, text: str, **changed: object) -> Rows:
    (here / "rows.csv").write_text(text)
    values = {"files": [str(here / "rows.csv")], "format": "csv", "images": str(here / "in")}
    return reading.read("table", **{**values, "image": "image", "caption": "text", **changed})


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.png").write_bytes(toy.picture(1))
    return tmp_path


def test_rows_of_one_path_show_one_image(here: Path) -> None:
    text = "image,text,n\na b.png,one,1\n ./a b.png,two,2\na b.png,three,3\n"
    first, other, again = good(read(here, text, keep=["n"]))
    assert (first.image, first.captions, first.split) == (toy.picture(1), ("one",), "train")
    assert first.meta == {"n": "1", "path": "a b.png"}
    assert [first.image_id, other.image_id, again.image_id] == [0, 1, 0]
    assert [first.key, again.key] == ["train-00000000", "train-00000002"]


def test_a_column_of_splits(here: Path) -> None:
    table = pa.table({"image": ["a b.png"] * 3, "text": [["one", "two"]] * 3,
                      "split": ["val", "Test!", None]})  # fmt: skip
    pq.write_table(table, here / "rows.parquet")
    files = {"files": [str(here / "rows.parquet")], "format": "parquet", "split": None}
    rows = read(here, "", **files)
    assert [(row.split, row.captions) for row in good(rows)] == [("val", ("one", "two"))]
    assert [row.reason for row in bad(rows)] == [Reason.MALFORMED_ROW, Reason.MISSING_FIELD]


def test_what_is_not_there_or_lies_elsewhere_is_rejected(here: Path) -> None:
    (here / "secret.png").write_bytes(toy.picture(2))
    rows = read(here, "image,text\nno.png,one\n../secret.png,two\n,three\na b.png,\n")
    assert [row.line for row in bad(rows)] == [2, 3, 4, 5]
    assert reasons(rows) == [
        ("no.png", Reason.MISSING_FILE),
        ("../secret.png", Reason.OUTSIDE_ROOT),
        ("", Reason.MISSING_FIELD),
        ("a b.png", Reason.NO_CAPTION),
    ]


def test_lists_name_the_images_of_the_splits(here: Path) -> None:
    for name in ("b.png", "c.png", "d.png"):
        (here / "in" / name).write_bytes(toy.picture(2))
    (here / "train.txt").write_text("a b.png\nd.png\n")
    (here / "test.txt").write_text("\ufeffb.png\r\nlost.png\r\n\r\n")
    lists = {split: str(here / f"{split}.txt") for split in ("train", "test")}
    text = "image,text\na b.png#0,one\na b.png#1,two\nb.png,three\nc.png,four\nd.png,five\n"
    rows = read(here, text, splits=lists)
    assert [(row.split, row.meta["path"]) for row in good(rows)] == [
        ("train", "a b.png"), ("train", "a b.png"), ("test", "b.png"), ("train", "d.png"),
    ]  # fmt: skip
    assert reasons(rows) == [("c.png", Reason.UNLISTED), ("lost.png", Reason.NO_CAPTION)]
    assert bad(rows)[1].detail.startswith(f"{here}/test.txt")
    values = {"files": [str(here / "rows.csv")], "format": "csv", "images": str(here / "in")}
    config = reading.config_of("table", **values, image="image", caption="text", splits=lists)
    assert set(config.inputs()) == {str(here / "rows.csv"), *lists.values()}
    assert config.all_splits() == {"train", "test"}
    assert config.evaluated().splits == {"test": lists["test"]}
    with pytest.raises(ParamsError, match="set either splits or split"):
        read(here, text, splits=lists, split="val")
    (here / "test.txt").write_text("d.png\n")
    with pytest.raises(ParamsError, match=r"image d.png is in the lists of two splits"):
        read(here, text, splits=lists)
    (here / "test.txt").unlink()
    with pytest.raises(ParamsError, match=r"test.txt cannot be read: No such file"):
        read(here, text, splits=lists)
