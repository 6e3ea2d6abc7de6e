"""A folder of pictures with texts beside them."""

from pathlib import Path

import pytest

from albef.config import ParamsError
from albef.data.rejection import Reason
from albef.ingest.sources import folder
from tests.data import toy
from tests.ingest.sources.reading import Rows, bad, good, reasons
from tests.ingest.sources.reading import read as read_source


def read(root: Path, split: str | None = "train") -> Rows:
    return read_source("folder", path=str(root), split=split)


def put(root: Path, name: str, captions: str | bytes | None = None, number: int = 0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(toy.picture(number))
    if captions is not None:
        text = captions.encode() if isinstance(captions, str) else captions
        path.with_suffix(".txt").write_bytes(text)


def test_a_line_is_a_caption_and_paths_give_the_order(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "one\n\n two \r\n", 2)
    put(tmp_path, "a/z.JPG", "\ufeffthree", 1)
    put(tmp_path, "c.svgz", "any file with a text is a row", 3)
    (tmp_path / "notes.md").write_text("no row")
    rows = read(tmp_path)
    b, c, z = good(rows)
    assert (b.captions, b.image) == (("one", " two \r"), toy.picture(2))
    assert (z.captions, z.meta) == (("three",), {"path": "a/z.JPG"})
    assert [row.key for row in (b, c, z)] == ["train-0000000", "train-0000001", "train-0000002"]
    assert read(tmp_path) == rows


def test_sub_folders_may_be_splits(tmp_path: Path) -> None:
    for name in ("train/deep/a.png", "val/a.png", "Test Set/a.png", "a.png"):
        put(tmp_path, name, name)
    rows = read(tmp_path, split=None)
    assert {row.meta["path"]: row.split for row in good(rows)} == {
        "train/deep/a.png": "train", "val/a.png": "val"
    }  # fmt: skip
    assert reasons(rows) == [
        ("a.png", Reason.MALFORMED_ROW), ("Test Set/a.png", Reason.MALFORMED_ROW)
    ]  # fmt: skip


def test_rows_that_lack_something(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(tmp_path, "secret.png", "x")
    put(root, "a.png")
    put(root, "b.png", " \n\n")
    put(root, "c.png", b"\xff\xfec\x00")
    put(root, "d.png", "x")
    (root / "d.png").unlink()
    for name, target in (("e", tmp_path / "secret"), ("f", tmp_path / "gone"), ("g", root / "g")):
        (root / f"{name}.png").symlink_to(target.with_suffix(".png"))
        (root / f"{name}.txt").write_text("x")
    put(root, "h.png", "x" * (folder.MAX_TEXT_BYTES + 1))
    put(root, "i.png", "fine")
    put(root, "i.jpg")
    rows = read(root)
    assert dict(reasons(rows)) == {
        "a.png": Reason.NO_CAPTION, "b.png": Reason.NO_CAPTION, "c.png": Reason.MALFORMED_ROW,
        "d.txt": Reason.MISSING_FILE, "e.png": Reason.OUTSIDE_ROOT, "f.png": Reason.OUTSIDE_ROOT,
        "g.png": Reason.MISSING_FILE, "h.png": Reason.TOO_MANY_BYTES,
    }  # fmt: skip
    assert [row.captions for row in good(rows)] == [("fine",), ("fine",)]
    assert len(rows) == 10
    assert [row.line for row in bad(rows) if row.key == "d.txt"] == [10]


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"has no images \(jpg, "):
        read(tmp_path)
    with pytest.raises(ParamsError, match="gone is not a folder"):
        read(tmp_path / "gone")
