"""Pictures that two data sets share."""

from pathlib import Path

import pytest

from albef.data.overlap import shared
from albef.data.shards import ShardError
from tests.data.toy import picture, record, write


def _write(folder: Path, name: str, colours: dict[str, list[int]], split: str) -> Path:
    write(
        folder / name,
        (
            record(i, key=key, image=picture(first), more=tuple(map(picture, more)), split=split)
            for i, (key, (first, *more)) in enumerate(colours.items())
        ),
    )
    return folder / name


def test_equal_files_are_found_wherever_they_stand_in_a_record(tmp_path: Path) -> None:
    test = _write(tmp_path, "test", {"a": [1, 2], "b": [3, 4], "c": [5, 6]}, "test")
    trained = _write(tmp_path, "web", {"w": [4], "x": [5], "y": [9]}, "train")
    assert shared(test, "test", trained) == ("c", "b")
    assert shared(test, "test", trained, "val") == ()
    assert shared(trained, "train", test, "test") == ("w", "x")


def test_a_data_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    test = _write(tmp_path, "test", {"a": [1]}, "test")
    with pytest.raises(ShardError, match="is missing"):
        shared(test, "test", tmp_path / "web")
