"""What lies at a path becomes the section of a source that reads it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.config import ParamsError, validate
from albef.ingest.config import RowsConfig
from albef.ingest.derive import DOWNLOAD, derive
from tests.data import toy
from tests.ingest.sources.reading import write_tar


def read(path: Path, *fields: str) -> Any:
    """Fields of what is derived, or all of it, held against the class of its kind."""
    (section,) = derive(path, "s").values()
    validate(RowsConfig, {"sources": {"s": section}}, where="derived")
    return tuple(section[name] for name in fields) if fields else section


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(toy.picture(1))
        path.with_suffix(".txt").write_text("one")


def test_folders_of_images(tmp_path: Path) -> None:
    put(tmp_path / "flat", "a.png", "more/b.png")
    put(tmp_path / "split", "train/a.png", "val/b.png", "test/c/d.png")
    put(tmp_path / "named", "dogs/a.png", "cats/b.png")
    for name, split in (("flat", "train"), ("split", None), ("named", "train")):
        path = tmp_path / name
        assert read(path) == {"kind": "folder", "path": str(path), "split": split}


def test_shards(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "a" / split).mkdir(parents=True)
        write_tar(tmp_path / "a" / split / "0.tar", ("1.jpg", b"x"), ("1.txt", b"one"))
    values = json.dumps({"id": 3, "caption": "one"}).encode()
    write_tar(tmp_path / "b.tar", ("1.jpg", b"x"), ("1.json", values))
    files, caption = read(tmp_path / "a", "files", "caption")
    assert (set(files), caption) == ({"train", "val"}, "txt")
    assert read(tmp_path / "b.tar", "caption") == ("json.caption",)


def test_parquet(tmp_path: Path) -> None:
    image = {"bytes": b"x", "path": "a"}
    table = pa.table({"image": [image], "caption": [["one"]], "filename": ["a"]})
    for split in ("train-00000-of-00002", "train-00001-of-00002", "validation", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert read(tmp_path, "kind", "image", "captions") == ("parquet", "image", ["caption"])
    (files,) = read(tmp_path, "files")
    counts = {split: len(names) for split, names in files.items()}
    assert counts == {"train": 2, "val": 1, "test": 1}
    several = tmp_path / "several.parquet"
    pq.write_table(pa.table({"images": [[image]], "caption": ["one"]}), several)
    assert read(several, "kind", "image") == ("parquet", "images")
    links = tmp_path / "links.parquet"
    pq.write_table(pa.table({"URL": ["http://a.test"], "TEXT": ["one"], "n": [1]}), links)
    assert read(links, "kind", "url", "caption") == ("urls", "URL", "TEXT")
    lists = tmp_path / "lists"
    lists.mkdir()
    table = pa.table({"URL": ["http://a.test"], "TEXT": ["one"]})
    pq.write_table(table, lists / "test.parquet")
    assert read(lists, "split") == ("test",)
    pq.write_table(table, lists / "train.parquet")
    with pytest.raises(ParamsError, match=r"several splits \(.*\); give the path of one"):
        read(lists, "split")
    (many := tmp_path / "many").mkdir()
    for i in range(5):
        pq.write_table(table, many / f"part-{i}.parquet")
    assert read(many, "files") == ([str(many / "part-*.parquet")],), "a pattern names no other file"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.tsv", "a dog\thttp://a.test/1\n", {"header": ["caption", "url"], "url": "url"}),
        ("a.csv", "URL,TEXT\nhttp://a.test,a\n", {"url": "URL", "caption": "TEXT"}),
        ("a.csv", '\ufeffid,image_url,"title"\n', {"url": "image_url", "caption": "title"}),
    ],
)
def test_lists(tmp_path: Path, name: str, text: str, expected: dict[str, Any]) -> None:
    (tmp_path / name).write_text(text)
    section = read(tmp_path / name)
    assert {**section, **expected, "download": DOWNLOAD} == section


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "file,split,caption\n1.png,train,a\n", {"image": "file", "split": None}),
        ("a.tsv", "a dog\t1.png\n", {"image": "image", "header": ["caption", "image"]}),
        ("a.csv", "caption,image\na,{root}/in/1.png\n", {"images": "{root}/in"}),
    ],
)
def test_tables_of_local_images(
    tmp_path: Path, name: str, text: str, expected: dict[str, Any]
) -> None:
    put(tmp_path, "in/1.png")
    (tmp_path / "in" / "1.txt").unlink()
    (tmp_path / name).write_text(text.format(root=tmp_path))
    expected = {"kind": "table", "images": str(tmp_path / "in"), **expected}
    expected["images"] = expected["images"].format(root=tmp_path)
    section = read(tmp_path / name)
    assert {**section, **expected} == section
    (tmp_path / name).rename(tmp_path / "in" / name)
    assert read(tmp_path / "in") == {**section, "files": [str(tmp_path / "in" / name)]}


def test_json_of_captions(tmp_path: Path) -> None:
    put(tmp_path, "images/val2014/a.png", "images/b.jpg", "notes/c.jpg")
    notes = tmp_path / "notes" / "test.json"
    notes.write_text(json.dumps([{"image": "b.jpg", "caption": "one"}]))
    format_, images, files = read(notes, "format", "images", "files")
    assert (format_, images, list(files)) == ("captions", str(tmp_path / "images"), ["test"])
    first = {"filepath": "val2014", "filename": "a.png", "sentences": [{"raw": "one"}]}
    splits = [{**first, "split": split} for split in ("restval", "test")]
    notes.write_text(json.dumps({"images": splits}))
    assert read(notes) == {
        "kind": "karpathy", "file": str(notes), "images": images, "splits": ["train", "test"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no", None, "does not exist"),
        ("a.bin", "", "cannot infer the format"),
        ("a.json", "[1]", "no rows with image and caption"),
        ("a.json", '[{"image": "x.jpg", "caption": "one"}]', "no folder near it has x.jpg"),
        ("a.csv", "one,two\n", "no column that looks like image paths or URLs"),
        ("a.csv", "url,two\n", "looks like captions; its columns are url, two"),
        ("a.tar", "", "has no captions"),
    ],
)
def test_what_cannot_be_inferred_is_reported(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ParamsError) as caught:
        derive(tmp_path / name, "s")
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
