"""How a data set changed, by indexes that the writer of data sets made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from albef.data.shards import read_index
from albef.report import changes
from tests.data import toy


def _index(folder: Path, records: Sequence[Any]) -> pa.Table:
    toy.write(folder, records)
    return read_index(folder)


def test_rows_are_added_removed_and_changed_by_what_stands_in_them(tmp_path: Path) -> None:
    before = [toy.record(i) for i in range(4)] + [toy.record(9, split="test")]
    after = [
        toy.record(0),
        toy.record(1, captions=("other words",)),
        toy.record(2, image=toy.picture(50)),
        toy.record(5),
        toy.record(6),
        toy.record(9, split="test", meta={"a": "new"}),
    ]
    found = changes.compare(_index(tmp_path / "a", before), _index(tmp_path / "b", after))
    assert list(found) == [
        changes.SplitRows("train", before=4, after=5, added=2, removed=1, changed=2),
        changes.SplitRows("test", before=1, after=1, added=0, removed=0, changed=1),
    ]


def test_a_further_image_is_part_of_a_record(tmp_path: Path) -> None:
    a, b = (
        _index(tmp_path / name, [toy.record(0, more=(toy.picture(other),))])
        for name, other in (("a", 1), ("b", 2))
    )
    assert [row.changed for row in changes.compare(a, b)] == [1]
    assert [row.changed for row in changes.compare(a, a)] == [0]
