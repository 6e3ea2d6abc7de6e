"""The rows of a data set's sources."""

from collections import Counter
from pathlib import Path

import pytest

from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.ingest.config import RowsConfig
from albef.ingest.sources import read_rows
from tests.data import toy

SHARES = {"val": 0.2, "test": 0.3}


def test_shares_are_split_off_by_picture(tmp_path: Path) -> None:
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
    with pytest.raises(ParamsError, match="split_off names other splits than train"):
        validate(RowsConfig, section, where="test")
