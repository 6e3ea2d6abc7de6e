"""What the suites refuse: each expectation on a data set with that one fault."""

import dataclasses
import io
import json
from collections.abc import Callable
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
from albef.validation.page import render_page
from albef.validation.result import Result
from tests.data import toy
from tests.validation.values import VALUES, check, config, failed

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


def written(
    folder: Path, change: Callable[[Record], Record], number: int = 4, **changed: Any
) -> Path:
    """A data set of twenty records, one of them changed; the last four are evaluated on."""
    records = [record(i, split="val" if i > 15 else "train", **changed) for i in range(COUNT)]
    records[number] = change(records[number])
    toy.write(folder / "toy", records)
    return folder / "toy"


def checked(folder: Path, change: Callable[[Record], Record], **values: Any) -> Result:
    return check(written(folder, change), **values)[0]


def image(size: tuple[int, int]) -> dict[str, Any]:
    return {"image": picture(4, size)}


ONE = "1 of 20 (5 %) fail, none may"
FAULTS: list[tuple[dict[str, Any], str, str, dict[str, Any]]] = [
    (
        {"captions": ("fine words", " ")},
        "captions are not empty",
        "1 of 40 (2.5 %) fail",
        {"max_empty_captions": 0.025},
    ),
    (
        {"captions": ("fine words", "word")},
        "captions are not short",
        "1 of 40 (2.5 %) fail",
        {"max_short_captions": 0.025},
    ),
    ({"captions": ()}, "records have a caption", ONE, {}),
    (
        {"captions": ("word " * 11,)},
        "captions are not too long",
        "1 of 39 (2.56 %) fail",
        {"max_caption_words": 11},
    ),
    (
        {"captions": ("собака и cat",)},
        "captions are in a known script",
        "1 of 39 (2.56 %) fail",
        {"scripts": ["Latin", "Cyrillic"]},
    ),
    (
        {"captions": ("собака и cat",)},
        "captions are in a known script",
        "1 of 39 (2.56 %) fail",
        {"max_other_scripts": 0.03},
    ),
    ({"image": picture(4)[:60]}, "images can be decoded", ONE, {"max_decode_failures": 0.05}),
    (
        {"image": picture(4, kind="JPEG")[:-50]},
        "images can be decoded",
        ONE,
        {"max_decode_failures": 0.05},
    ),
    ({"image": toy.picture(4)}, "images are not blank", ONE, {"max_blank_images": 0.05}),
    ({"image": picture(3)}, "images are not repeated", ONE, {"max_duplicate_images": 0.05}),
    (image((40, 15)), "images are not too small", ONE, {"min_image_side": 15}),
    (image((40, 65)), "images are not too large", ONE, {"max_image_side": 65}),
    (image((64, 20)), "images are not too elongated", ONE, {"max_aspect_ratio": 3.2}),
]


@pytest.mark.parametrize(("fault", "what", "found", "allowing"), FAULTS)
def test_one_fault_is_one_failure_and_can_be_allowed(
    tmp_path: Path, fault: dict[str, Any], what: str, found: str, allowing: dict[str, Any]
) -> None:
    result = checked(tmp_path, lambda record: dataclasses.replace(record, **fault))
    assert not result.passed
    (one,) = failed(result)
    assert one.what == what
    assert one.threshold in ("", "max_other_scripts", *allowing)
    assert one.sentence().startswith(found)
    assert one.reason() in result.reasons()
    assert [row["key"] for row in one.sample] == ["toy-0004"]
    if allowing:
        assert check(tmp_path / "toy", **allowing)[0].passed


def test_a_picture_that_is_evaluated_on_may_not_be_trained_on(tmp_path: Path) -> None:
    folder = written(
        tmp_path, lambda r: dataclasses.replace(r, image=picture(3), image_id=3), number=17
    )
    result, _ = check(folder)
    (one,) = failed(result)
    assert one.reason() == (
        "images that are evaluated on are not trained on (expect_column_values_to_be_in_set of "
        "records.elsewhere): 1 of 4 (25 %) fail, none may (validate.max_shared_images)"
    )
    assert one.sample == ({"key": "toy-0017", "split": "val", "elsewhere": "toy-0003"},)
    assert check(folder, max_shared_images=0.25)[0].passed


def test_a_caption_of_many_different_images_is_a_repeated_one(tmp_path: Path) -> None:
    folder = written(tmp_path, lambda record: record)
    result, _ = check(folder, max_caption_images=19)
    (one,) = failed(result)
    assert one.what == "captions are not repeated"
    assert one.sentence() == "20 of 40 (50 %) fail, none may"
    assert {row["caption"] for row in one.sample} == {"another caption"}
    assert check(folder, max_caption_images=19, max_repeated_captions=0.5)[0].passed


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    return check(written(tmp_path_factory.mktemp("good"), lambda record: record))


def test_a_good_data_set_passes(good: tuple[Result, dict[str, Any]]) -> None:
    result, _ = good
    assert result.passed
    assert len(result.checks) == 17
    assert all(check.sample == () for check in result.checks)
    assert result.statistics["splits"] == {"train": 16, "val": 4}
    assert result.statistics["kinds"] == {"captions": 20}
    assert result.statistics["words of a caption"] == {"least": 2.0, "median": 2.5, "most": 3.0}
    assert result.statistics["different images"] == COUNT
    assert result.statistics["scripts"] == {"Latin": 1.0}


def test_a_repeated_image_of_the_same_image_id_is_no_fault(tmp_path: Path) -> None:
    def twin(record: Record) -> Record:
        return dataclasses.replace(record, image=picture(3), image_id=3)

    assert checked(tmp_path, twin).passed


def reindexed(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A data set with another index."""
    schema = pq.read_schema(folder / "index.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "index.parquet")
    return folder


def test_keys_that_come_twice_or_are_no_names_are_found(tmp_path: Path) -> None:
    folder = written(tmp_path, lambda record: record)
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    pictures = read_image_stats(folder, threads=1)
    rows[1]["key"], rows[2]["key"] = "toy-0000", "toy 2.x"
    result, _ = check_dataset(reindexed(folder, rows), config(), pictures)
    found = {one.what: one for one in failed(result)}
    assert list(found) == ["keys are unique", "keys are plain names"]
    assert found["keys are unique"].sentence() == "2 of 20 (10 %) fail, none may"
    assert [row["key"] for row in found["keys are plain names"].sample] == ["toy 2.x"]


def test_digests_of_another_kind_are_found(tmp_path: Path) -> None:
    folder = written(tmp_path, lambda record: record)
    index = pq.read_table(folder / "index.parquet")
    pictures = read_image_stats(folder, threads=1)
    rows = index.to_pylist()
    rows[3]["digest"] = "0123"
    (one,) = failed(check_dataset(reindexed(folder, rows), config(), pictures)[0])
    assert (one.what, one.failed) == ("digests are SHA-256", 1)
    assert [row["key"] for row in one.sample] == ["toy-0003"]


def test_a_data_set_without_records_is_refused(tmp_path: Path) -> None:
    folder = reindexed(written(tmp_path, lambda record: record), [])
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"splits": {}}))
    result, own = check(folder)
    assert [one.reason() for one in failed(result)] == [
        "there are records (expect_table_row_count_to_be_between of records at least 1): "
        "there are 0"
    ]
    assert "refused" in render_page(result, own)


def pair(first: int, second: int, size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    return {"image": picture(first), "more": (picture(second, size),)}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (pair(4, 104, (40, 15)), "images are not too small"),
        (pair(4, 104, (40, 65)), "images are not too large"),
        (pair(3, 103), "images are not repeated"),
        ({"image": picture(4), "more": (picture(4)[:60],)}, "images can be decoded"),
        ({"image": picture(4), "more": (toy.picture(104),)}, "images are not blank"),
        (pair(3, 104), None),  # half of a pair may come again
    ],
)
def test_the_second_image_of_a_record_is_checked_too(
    tmp_path: Path, fault: dict[str, Any], what: str | None
) -> None:
    told = {"captions": ("a sentence",)}
    records = [
        record(i, **pair(i, 100 + i), **told, meta={"label": str(i % 2 == 0)}) for i in range(COUNT)
    ]
    records[4] = dataclasses.replace(records[4], **fault)
    toy.write(tmp_path / "toy", records)
    result, _ = check(tmp_path / "toy")
    assert [one.what for one in failed(result)] == ([what] if what else [])
    if what is None:
        assert result.statistics["different images"] == 2 * COUNT - 1
    else:
        assert [row["key"] for row in failed(result)[0].sample] == ["toy-0004"]


def test_the_result_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (
        check(written(tmp_path / name, lambda r: dataclasses.replace(r, captions=("", "x y"))))
        for name in ("a", "b")
    )
    assert first == second
    texts = [json.dumps([one[0].to_json(), one[1]], sort_keys=True) for one in (first, second)]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0] + render_page(*first)
    assert render_page(*first) == render_page(*second)


def test_the_page_says_what_failed_and_shows_rows(tmp_path: Path) -> None:
    def long(record: Record) -> Record:
        return dataclasses.replace(record, captions=("<script>" + " b" * 20,))

    text = render_page(*check(written(tmp_path, long)))
    assert "refused" in text
    assert "1 of 17 expectations are not met" in text
    assert "Not met: captions are not too long" in text
    assert "toy-0004" in text
    assert "&lt;script&gt;" in text
    for absent in ("<script", "http", "src="):  # nothing is fetched, nothing runs
        assert absent not in text


def test_the_page_of_a_good_data_set(good: tuple[Result, dict[str, Any]]) -> None:
    text = render_page(*good)
    assert "Data set toy: fit to train on" in text
    assert "not met" not in text
    assert "<h3>Every data set</h3>" in text
    assert "<h3>Captions</h3>" in text
    assert text.count('<svg class="bars"') == 10
    assert "train, 16 records" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_empty_captions": 1.5}, "max_empty_captions"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio"),
        ({"max_caption_word": 3}, "did you mean max_caption_words?"),
        ({"scripts": ["Latn"]}, "scripts.0: input should be 'Latin'"),
        (
            {"drift": {**VALUES["drift"], "accepted": {
                "divergence": {"warn": 0.5, "stop": 0.1}, "shift": {"warn": None, "stop": None}
            }}},
            "drift.accepted.divergence: warn (0.5) is beyond stop (0.1)",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        validate(ValidateConfig, {**VALUES, **changed}, where="test")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"split": "test"}, []),
        ({"captions": ()}, ["records have a caption"]),
        ({"captions": ("12 + 3",)}, []),  # in no script
        ({"image": b"\x89PNG not at all"}, ["images can be decoded"]),
    ],
)
def test_a_data_set_that_lacks_something_altogether_is_judged_all_the_same(
    tmp_path: Path, changed: dict[str, Any], what: list[str]
) -> None:
    toy.write(tmp_path / "toy", [record(i, **changed) for i in range(3)])
    allowed = {"max_duplicate_images": 1.0}
    result, own = check(tmp_path / "toy", **allowed)
    assert [one.what for one in failed(result)] == what
    assert "Profile" in render_page(result, own)
