"""Croissant metadata, as the library of those who define it reads it."""

from pathlib import Path

import pytest

from albef.data.shards import read_index
from albef.report import croissant
from tests.data import toy

mlcroissant = pytest.importorskip("mlcroissant")


@pytest.mark.filterwarnings("ignore")  # of what it is built on
def test_a_dataset_is_read_by_its_metadata(tmp_path: Path) -> None:
    folder, beside = tmp_path / "data" / "toy", tmp_path / "report"
    toy.write(folder, [toy.record(i) for i in range(5)])
    beside.mkdir()
    path = beside / "toy.croissant.json"
    path.write_text(croissant.render(folder, beside))
    read = mlcroissant.Dataset(jsonld=str(path))
    assert not read.metadata.issues.errors
    assert read.metadata.license == ["https://a.test"]
    rows = list(read.records("records"))
    index = read_index(folder).to_pylist()
    assert [row["records/key"].decode() for row in rows] == [row["key"] for row in index]
    captions = [[text.decode() for text in row["records/captions"]] for row in rows]
    assert captions == [row["captions"] for row in index]
    assert [row["records/offset"] for row in rows] == [row["offset"] for row in index]
