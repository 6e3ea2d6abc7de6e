"""What the suite refuses: each expectation on a data set with that one fault."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albef.config import ParamsError, validate
from albef.data.quality import Check, Result, ValidateConfig, check_dataset
from albef.data.quality_page import page
from albef.data.record import Record
from tests.data import toy

VALUES: dict[str, Any] = {
    "max_empty_captions": 0.0,
    "max_duplicate_images": 0.0,
    "max_caption_words": 10,
    "min_image_side": 16,
    "max_image_side": 64,
    "max_aspect_ratio": 3.0,
    "max_decode_failures": 0.0,
}
COUNT = 20


def checked(folder: Path, change: Callable[[Record], Record], **values: Any) -> Result:
    """A data set of twenty records, the fifth of them changed, after validation."""
    records = [toy.record(i, split="val" if i > 15 else "train") for i in range(COUNT)]
    records[4] = change(records[4])
    toy.write(folder / "toy", records)
    config = validate(ValidateConfig, {**VALUES, **values}, where="test")
    return check_dataset(folder / "toy", config, threads=2)


def failed(result: Result) -> list[Check]:
    return [check for check in result.checks if not check.passed]


def image(size: tuple[int, int]) -> dict[str, Any]:
    return {"image": toy.picture(4, size)}


FAULTS: list[tuple[dict[str, Any], str, str, dict[str, Any]]] = [
    (
        {"captions": ("fine", " ")},
        "captions are not empty",
        "1 of 40 (2.5 %) fail",
        {"max_empty_captions": 0.025},
    ),
    ({"captions": ()}, "records have a caption", "1 of 20 (5 %) fail", {}),
    (
        {"captions": ("word " * 11,)},
        "captions are not too long",
        "1 of 39 (2.56 %) fail",
        {"max_caption_words": 11},
    ),
    (
        {"image": toy.picture(4)[:60]},
        "images can be decoded",
        "1 of 20 (5 %) fail",
        {"max_decode_failures": 0.05},
    ),
    (
        {"image": toy.picture(3)},
        "images are not repeated",
        "1 of 20 (5 %) fail",
        {"max_duplicate_images": 0.05},
    ),
    (image((40, 15)), "images are not too small", "1 of 20 (5 %) fail", {"min_image_side": 15}),
    (image((40, 65)), "images are not too large", "1 of 20 (5 %) fail", {"max_image_side": 65}),
    (
        image((64, 20)),
        "images are not too elongated",
        "1 of 20 (5 %) fail",
        {"max_aspect_ratio": 3.2},
    ),
]


@pytest.mark.parametrize(("fault", "what", "found", "allowing"), FAULTS)
def test_one_fault_is_one_failure_and_can_be_allowed(
    tmp_path: Path, fault: dict[str, Any], what: str, found: str, allowing: dict[str, Any]
) -> None:
    result = checked(tmp_path, lambda record: dataclasses.replace(record, **fault))
    assert not result.passed
    (check,) = failed(result)
    assert check.what == what
    assert check.sentence().startswith(found)
    assert check.threshold in ("", *allowing)
    assert [row["key"] for row in check.sample] == ["toy-0004"]
    if allowing:
        config = validate(ValidateConfig, {**VALUES, **allowing}, where="test")
        assert check_dataset(tmp_path / "toy", config, threads=1).passed


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return checked(tmp_path_factory.mktemp("good"), lambda record: record)


def test_a_good_data_set_passes(good: Result) -> None:
    assert good.passed
    assert len(good.checks) == 10
    assert all(check.sample == () for check in good.checks)
    assert good.statistics["splits"] == {"train": 16, "val": 4}
    assert good.statistics["words of a caption"] == {"least": 2.0, "median": 2.5, "most": 3.0}
    assert good.statistics["different images"] == COUNT


def test_every_threshold_is_used(good: Result) -> None:
    assert {check.threshold for check in good.checks} - {""} == set(VALUES)


def test_a_repeated_image_of_the_same_image_id_is_no_fault(tmp_path: Path) -> None:
    def twin(record: Record) -> Record:
        return dataclasses.replace(record, image=toy.picture(3), image_id=3)

    assert checked(tmp_path, twin).passed


def pair(first: int, second: int, size: tuple[int, int] = (40, 32)) -> dict[str, Any]:
    return {"image": toy.picture(first), "more": (toy.picture(second, size),)}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (pair(4, 104, (40, 15)), "images are not too small"),
        (pair(4, 104, (40, 65)), "images are not too large"),
        (pair(3, 103), "images are not repeated"),
        ({"image": toy.picture(4), "more": (toy.picture(4)[:60],)}, "images can be decoded"),
        (pair(3, 104), None),  # half of a pair may come again
    ],
)
def test_the_second_image_of_a_record_is_checked_too(
    tmp_path: Path, fault: dict[str, Any], what: str | None
) -> None:
    records = [toy.record(i, **pair(i, 100 + i)) for i in range(COUNT)]
    records[4] = dataclasses.replace(records[4], **fault)
    toy.write(tmp_path / "toy", records)
    config = validate(ValidateConfig, VALUES, where="test")
    result = check_dataset(tmp_path / "toy", config, threads=2)
    assert [check.what for check in failed(result)] == ([what] if what else [])
    if what is None:
        assert result.statistics["different images"] == 2 * COUNT - 1
    else:
        assert [row["key"] for row in failed(result)[0].sample] == ["toy-0004"]


def test_the_result_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (
        checked(tmp_path / name, lambda r: dataclasses.replace(r, captions=("", "x")))
        for name in ("a", "b")
    )
    assert first == second
    texts = [json.dumps(result.to_json(), sort_keys=True) for result in (first, second)]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0] + page(first)
    assert page(first) == page(second)


def test_the_page_says_what_failed_and_shows_rows(tmp_path: Path) -> None:
    text = page(
        checked(tmp_path, lambda r: dataclasses.replace(r, captions=("<script>" + " b" * 20,)))
    )
    assert "refused" in text
    assert "1 of 10 expectations are not met" in text
    assert "Not met: captions are not too long" in text
    assert "toy-0004" in text
    assert "&lt;script&gt;" in text
    for absent in ("<script", "http", "src="):  # nothing is fetched, nothing runs
        assert absent not in text


def test_the_page_of_a_good_data_set(good: Result) -> None:
    text = page(good)
    assert "Data set toy: fit to train on" in text
    assert "not met" not in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_empty_captions": 1.5}, "max_empty_captions"),
        ({"max_aspect_ratio": 0.5}, "max_aspect_ratio"),
        ({"max_caption_word": 3}, "did you mean max_caption_words?"),
    ],
)
def test_wrong_values_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        validate(ValidateConfig, {**VALUES, **changed}, where="test")
    assert message in str(caught.value)
