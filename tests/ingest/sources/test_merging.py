"""Rows of one image become one record with all captions, from every source that has such rows."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from albef.data.record import Record
from tests.data import toy
from tests.ingest.sources.reading import compare_rows, merged, write_tar

# The image and caption of each row; the rows of an image do not follow each other.
ROWS = [(0, "a dog"), (0, "brown&amp;dog"), (1, "a cat"), (0, "a dog"), (2, "x"), (1, "the cat")]
CAPTIONS = [("a dog", "brown&dog"), ("a cat", "the cat"), ("x",)]
Source = dict[str, Any]


def table(here: Path) -> Source:
    for image, _ in ROWS:
        (here / f"{image}.png").write_bytes(toy.picture(image))
    with (here / "captions.csv").open("w", newline="") as file:
        rows = [(f"{image}.png", caption) for image, caption in ROWS]
        csv.writer(file).writerows([("image", "caption"), *rows])
    files = [str(here / "captions.csv")]
    return {"kind": "table", "files": files, "format": "csv", "images": str(here),
            "image": "image", "caption": "caption"}  # fmt: skip


def webdataset(here: Path) -> Source:
    samples: list[tuple[str, bytes]] = []
    for i, (image, caption) in enumerate(ROWS):
        values = {"key": f"{i}", "caption": caption, "url": f"http://a.test/{image}"}
        samples += [
            (f"{i}.png", toy.picture(image)),
            (f"{i}.txt", caption.encode()),
            (f"{i}.json", json.dumps(values).encode()),
        ]
    return {"kind": "webdataset", "files": {"train": [str(write_tar(here / "a.tar", *samples))]}}


def parquet(here: Path, **columns: Any) -> Source:
    images, captions = zip(*ROWS, strict=True)
    values = {"image": list(map(toy.picture, images)), "caption": captions, **columns}
    pq.write_table(pa.table(values), here / "a.parquet")
    return {"kind": "parquet", "files": {"train": [str(here / "a.parquet")]}, "image": "image",
            "captions": ["caption"], "keep": list(columns)}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def shown(records: list[Record]) -> list[tuple[str, ...]]:
    return [record.captions for record in records]


@pytest.mark.parametrize("make", [table, webdataset, parquet])
def test_an_image_is_one_record(here: Path, make: Callable[[Path], Source]) -> None:
    records, count = merged(here.parent / "work", **make(here))
    assert shown(records) == CAPTIONS
    assert [record.image for record in records] == [toy.picture(i) for i in range(3)]
    assert count == 3
    assert len({record.image_id for record in records}) == 3
    originals = ["a dog", "brown&amp;dog", "a dog"]
    assert records[0].meta["original_captions"] == originals
    assert "original_captions" not in records[1].meta


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ({"answers": ['{"yes": 1}'] * 6}, 0),  # A label belongs to the question.
        ({"label": ["true"] * 6}, 0),
        ({"score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, 0),
        ({"licence": ["CC0"] * 6}, 3),
        ({"licence": ["CC0", "CC0", "CC0", "other", "CC0", "CC0"]}, 2),
    ],
)
def test_rows_that_differ_in_more_stay_separate(here: Path, columns: Any, count: int) -> None:
    records, merged_rows = merged(here.parent / "work", **parquet(here, **columns))
    assert merged_rows == count
    assert len(records) == len(ROWS) - count


def test_an_image_of_two_splits_is_a_record_of_each(here: Path) -> None:
    source = table(here)
    rows = "".join(f"0.png,{split} {i},{split}\n" for i in range(2) for split in ("train", "val"))
    (here / "captions.csv").write_text(f"image,caption,split\n{rows}")
    records, _ = merged(here.parent / "work", **source, split=None)
    assert [(record.split, record.captions) for record in records] == [
        ("train", ("train 0", "train 1")), ("val", ("val 0", "val 1")),
    ]  # fmt: skip


def test_equal_files_of_different_paths_are_different_images(here: Path) -> None:
    source = table(here)
    (here / "copy.png").write_bytes(toy.picture(0))
    with (here / "captions.csv").open("a") as file:
        file.write("copy.png,a copy\n")
    records, count = merged(here.parent / "work", **source)
    assert (len(records), count) == (4, 3)


def test_an_image_is_dropped_with_all_its_captions(here: Path) -> None:
    source = table(here)
    (here / "copy.png").write_bytes(toy.picture(0))
    with (here / "captions.csv").open("a") as file:
        file.write("copy.png,a copy\ncopy.png,again\n")
    compared = compare_rows(here.parent / "work", source, duplicates="drop_exact")[1]
    assert sorted(compared.dropped) == [6, 7]
    assert np.flatnonzero(compared.merged).tolist() == [1, 3, 5]
    assert [duplicate.row for duplicate in compared.repeated] == [6]
