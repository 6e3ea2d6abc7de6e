"""What the suites refuse: each expectation on a data set with that one fault."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from albef.config import ParamsError, validate
from albef.data.record import Record
from albef.validation.checking import check_dataset
from albef.validation.config import ValidateConfig
from albef.validation.image_stats import read_image_stats
from tests.data import toy
from tests.validation.values import VALUES, check, config, failed, failed_suites, keys, written

COUNT = 20


def picture(number: int, size: tuple[int, int] = (40, 32), kind: str = "PNG") -> bytes:
    """A picture of two halves, whose colour says its number."""
    image = Image.new("RGB", size, (number % 256, number // 256, 50))
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2, size[1]), (200, 100, number % 256))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def record(number: int, **changed: Any) -> Record:
    return toy.record(number, **{"image": picture(number), **changed})


def twenty(folder: Path, **changed: Any) -> Path:
    """A data set of twenty records, of which number 17 is changed; the last four are evaluated."""
    records = [record(i, split="val" if i > 15 else "train") for i in range(COUNT)]
    records[17] = dataclasses.replace(records[17], **changed)
    return written(folder / "toy", records)


FAULTS: dict[int, tuple[dict[str, Any], str]] = {
    2: ({"captions": ("fine words", " ")}, "captions are not empty"),
    3: ({"captions": ("fine words", "word")}, "captions are not short"),
    4: ({"captions": ()}, "records have a caption"),
    5: ({"captions": ("word " * 11,)}, "captions are not too long"),
    6: ({"captions": ("собака и cat",)}, "captions are in a known script"),
    7: ({"image": picture(7)[:60]}, "images can be decoded"),
    8: ({"image": picture(8, kind="JPEG")[:-50]}, "images can be decoded"),
    9: ({"image": toy.picture(9)}, "images are not blank"),
    10: ({"image": picture(1)}, "images are not repeated"),
    11: ({"image": picture(11, (40, 15))}, "images are not too small"),
    12: ({"image": picture(12, (40, 65))}, "images are not too large"),
    13: ({"image": picture(13, (64, 20))}, "images are not too elongated"),
}
"""One fault each of records of twenty, and the only expectation that fails for it."""
OUTCOMES = {
    "captions are not empty": "1 of 36 (2.78 %) fail, none may (validate.max_empty_captions)",
    "captions are not too long": "1 of 36 (2.78 %) fail, none may (validate.max_caption_words)",
    "images can be decoded": "2 of 20 (10 %) fail, none may (validate.max_decode_failures)",
    "images are not blank": "1 of 18 (5.56 %) fail, none may (validate.max_blank_images)",
}
"""What is said of some faults: a broken image is not blank, too, and an empty caption not short."""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [record(i) for i in range(COUNT)]
    for number, (fault, _) in FAULTS.items():
        records[number] = dataclasses.replace(records[number], **fault)
    records[14] = record(14, image=picture(0), image_id=0)  # is allowed
    return written(tmp_path_factory.mktemp("faulty") / "toy", records)


def by_expectation(faults: Mapping[int, tuple[Any, str]]) -> dict[str, list[str]]:
    """Keys of the faulty records by the expectation that they do not meet."""
    expected: dict[str, list[str]] = {}
    for number, (_, what) in faults.items():
        expected.setdefault(what, []).append(f"toy-{number:04d}")
    return expected


def test_each_fault_fails_one_expectation_which_names_its_record(faulty: Path) -> None:
    result, _ = check(faulty)
    assert not result.passed
    checks = {one.what: one for one in failed(result)}
    assert {what: keys(one) for what, one in checks.items()} == by_expectation(FAULTS)
    assert [one.reason() for one in checks.values()] == result.reasons()
    for what, outcome in OUTCOMES.items():
        assert checks[what].reason().endswith(outcome)
    allowed = failed_suites(faulty, max_empty_captions=0.03, max_image_side=65)
    assert set(checks) - {one.what for one in allowed} == {
        "captions are not empty", "images are not too large"
    }  # fmt: skip


def test_an_image_that_is_evaluated_on_may_not_be_trained_on(tmp_path: Path) -> None:
    folder = twenty(tmp_path, image=picture(3), image_id=3)
    (one,) = failed_suites(folder)
    assert one.reason() == (
        "images that are evaluated on are not trained on (expect_column_values_to_be_in_set of "
        "records.elsewhere): 1 of 4 (25 %) fail, none may (validate.max_shared_images)"
    )
    assert one.sample == ({"key": "toy-0017", "split": "val", "elsewhere": "toy-0003"},)
    assert failed_suites(folder, max_shared_images=0.25) == []


def test_a_caption_of_many_different_images_is_a_repeated_one(tmp_path: Path) -> None:
    folder = twenty(tmp_path)
    (one,) = failed_suites(folder, max_caption_images=0.9)
    assert one.what == "captions are not repeated"
    assert one.outcome() == "20 of 40 (50 %) fail, none may"
    assert {row["caption"] for row in one.sample} == {"another caption"}
    assert failed_suites(folder, max_caption_images=0.9, max_repeated_captions=0.5) == []
    few = written(tmp_path / "few", map(record, range(10)))
    assert failed_suites(few, max_caption_images=0.1) == []


def test_a_good_dataset_passes(tmp_path: Path) -> None:
    result, _ = check(twenty(tmp_path))
    assert result.passed
    assert len(result.checks) == 17
    assert all(check.sample == () for check in result.checks if check.allowed < 1)
    assert result.statistics["splits"] == {"train": 16, "val": 4}
    assert result.statistics["kinds"] == {"captions": 20}
    assert result.statistics["words of a caption"] == {"least": 2.0, "median": 2.5, "most": 3.0}
    assert result.statistics["different images"] == COUNT
    assert result.statistics["scripts"] == {"Latin": 1.0}


def reindexed(folder: Path, rows: list[dict[str, Any]]) -> Path:
    schema = pq.read_schema(folder / "index.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "index.parquet")
    return folder


def test_keys_and_digests_that_are_none_are_found(tmp_path: Path) -> None:
    folder = twenty(tmp_path)
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    pictures = read_image_stats(folder, threads=1)
    rows[1]["key"], rows[2]["key"], rows[3]["digest"] = "toy-0000", "toy 2.x", "0123"
    result, _ = check_dataset(reindexed(folder, rows), config(), pictures)
    checks = {one.what: one for one in failed(result)}
    assert set(checks) == {"keys are unique", "keys are plain names", "digests are SHA-256"}
    assert checks["keys are unique"].outcome() == "2 of 20 (10 %) fail, none may"
    assert keys(checks["keys are plain names"]) == ["toy 2.x"]
    assert keys(checks["digests are SHA-256"]) == ["toy-0003"]


def test_a_dataset_without_records_is_refused(tmp_path: Path) -> None:
    folder = reindexed(twenty(tmp_path), [])
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"splits": {}}))
    result, _ = check(folder)
    assert [one.reason() for one in failed(result)] == [
        "there are records (expect_table_row_count_to_be_between of records at least 1): "
        "the dataset has 0"
    ]


def pair(first: int, second: int, size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    return {"image": picture(first), "more": (picture(second, size),)}


def test_the_second_image_of_a_record_is_checked_too(tmp_path: Path) -> None:
    faults: dict[int, tuple[dict[str, Any], str]] = {
        2: (pair(2, 102, (40, 15)), "images are not too small"),
        3: (pair(3, 103, (40, 65)), "images are not too large"),
        4: (pair(1, 101), "images are not repeated"),
        5: ({"image": picture(5), "more": (picture(5)[:60],)}, "images can be decoded"),
        6: ({"image": picture(6), "more": (toy.picture(106),)}, "images are not blank"),
    }
    records = [
        record(i, **pair(i, 100 + i), captions=("a sentence",), meta={"label": str(i % 2 == 0)})
        for i in range(COUNT)
    ]
    for number, (fault, _) in faults.items():
        records[number] = dataclasses.replace(records[number], **fault)
    records[7] = dataclasses.replace(records[7], **pair(8, 107))  # half of a pair may come again
    result, _ = check(written(tmp_path / "toy", records))
    assert {one.what: keys(one) for one in failed(result)} == by_expectation(faults)
    assert result.statistics["different images"] == 2 * COUNT - 3


def test_limits_of_drift_are_in_order() -> None:
    drift = {"accepted": {"divergence": {"warn": 0.5, "stop": 0.1}}}
    with pytest.raises(ParamsError, match=r"drift\.accepted\.divergence: warn \(0\.5\) must not"):
        validate(ValidateConfig, {**VALUES, "drift": drift}, where="test")


def test_a_dataset_that_lacks_something_altogether_is_judged_all_the_same(tmp_path: Path) -> None:
    for changed, what in (
        ({"split": "test"}, []),
        ({"captions": ()}, ["records have a caption"]),
        ({"captions": ("12 + 3",)}, []),  # in no script
        ({"image": b"\x89PNG not at all"}, ["images can be decoded"]),
    ):
        rows = [record(i, **changed) for i in range(3)]
        folder = written(tmp_path / str(len(list(tmp_path.iterdir()))) / "toy", rows)
        result, _ = check(folder, max_duplicate_images=1.0)
        assert [one.what for one in failed(result)] == what
