"""The suites of questions, statements, comparisons and expressions, and how a kind is known."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from albef.data.record import Record
from albef.validation.annotations import KINDS
from albef.validation.result import Result
from albef.validation.suites import COMMON, read_suite
from tests.data import toy
from tests.validation.test_suites import picture
from tests.validation.values import VALUES, check, failed

COUNT = 24
VE = ("contradiction", "neutral", "entailment")


def question(i: int) -> dict[str, Any]:
    return {"answers": {("yes", "no", "two")[i % 3]: 1.0, "perhaps": 0.3}, "question_id": i}


def statement(i: int) -> dict[str, Any]:
    return {"label": VE[i % 3]}


def comparison(i: int) -> dict[str, Any]:
    return {"label": ("True", "False")[i % 2]}


def expression(i: int) -> dict[str, Any]:
    return {"ref_id": i, "box": [2, 2, 10, 10], "proposals": [[2, 3, 10, 10], [20, 2, 8, 8]]}


META: dict[str, Callable[[int], dict[str, Any]]] = {
    "questions": question,
    "statements": statement,
    "comparisons": comparison,
    "expressions": expression,
}


def records(kind: str, **changed: Any) -> list[Record]:
    """Records of a kind in three splits, the last of which is without annotations."""
    splits = ("train",) * 12 + ("val",) * 6 + ("test",) * 6
    made = []
    for i, split in enumerate(splits):
        more = (picture(100 + i),) if kind == "comparisons" else ()
        meta = META[kind](i)
        if split == "test":
            meta = {name: meta[name] for name in ("ref_id", "question_id") if name in meta}
        made.append(
            toy.record(
                i, image=picture(i), more=more, split=split, meta=meta, captions=("some words",)
            )
        )
    return made


def checked(folder: Path, rows: list[Record], **values: Any) -> Result:
    toy.write(folder / "toy", rows)
    return check(folder / "toy", **values)[0]


@pytest.mark.parametrize("kind", META)
def test_a_good_data_set_of_each_kind_passes_and_its_test_split_needs_no_answers(
    tmp_path: Path, kind: str
) -> None:
    result = checked(tmp_path, records(kind))
    assert result.reasons() == []
    suites = [one.suite for one in result.checks if one.suite != COMMON]
    assert suites == [kind] * len(read_suite(kind))
    assert result.statistics["kinds"] == {kind: COUNT}


FAULTS: list[tuple[str, dict[str, Any], str, str, dict[str, float]]] = [
    ("questions", {"meta": {"question_id": 4}}, "questions have an answer", "1 of 18", {}),
    ("questions", {"meta": {"answers": []}}, "questions have an answer", "1 of 18", {}),
    ("questions", {"captions": ("a b", "c d")}, "records have one question", "1 of 24", {}),
    ("statements", {"meta": {}}, "statements are labelled", "1 of 18", {}),
    ("statements", {"meta": {"label": "true"}}, "statements are labelled", "1 of 18", {}),
    ("statements", {"captions": ("a b", "c d")}, "records have one statement", "1 of 24", {}),
    ("comparisons", {"meta": {"label": True}}, "statements are labelled", "1 of 18", {}),
    ("comparisons", {"captions": ("a b", "c d")}, "records have one statement", "1 of 24", {}),
    ("expressions", {"meta": {"ref_id": 4}}, "expressions have a box", "1 of 18", {}),
    (
        "expressions",
        {"meta": {"box": [32, 2, 10, 10], "proposals": [[32, 2, 8, 10]]}},
        "boxes are within their image",
        "1 of 18 (5.56 %) fail",
        {"max_boxes_outside": 0.06},
    ),
    (
        "expressions",
        {"meta": {"box": [2, 2, 10, 10], "proposals": [[2, 2, 10, 10], [2, 2, 0, 10]]}},
        "boxes are within their image",
        "1 of 18 (5.56 %) fail",
        {"max_boxes_outside": 0.06},
    ),
    (
        "expressions",
        {"meta": {"box": [2, 2, 10, 10], "proposals": [[20, 2, 10, 10]]}},
        "proposals cover the box",
        "1 of 18 (5.56 %) fail",
        {"max_boxes_unproposed": 0.06},
    ),
]


@pytest.mark.parametrize(("kind", "fault", "what", "found", "allowing"), FAULTS)
def test_one_fault_of_a_kind_is_one_failure_and_can_be_allowed(
    tmp_path: Path,
    kind: str,
    fault: dict[str, Any],
    what: str,
    found: str,
    allowing: Mapping[str, float],
) -> None:
    rows = records(kind)
    rows[4] = dataclasses.replace(rows[4], **fault)
    result = checked(tmp_path, rows)
    (one,) = failed(result)
    assert (one.what, one.suite) == (what, kind)
    assert one.sentence().startswith(found)
    assert one.threshold in ("", *allowing)
    assert [row["key"] for row in one.sample] == ["toy-0004"]
    if allowing:
        assert check(tmp_path / "toy", **allowing)[0].passed


@pytest.mark.parametrize(
    ("kind", "meta", "what"),
    [
        ("questions", {"answers": {"yes": 1.0}}, "no answer prevails"),
        ("statements", {"label": "neutral"}, "no label prevails"),
        ("comparisons", {"label": "True"}, "no label prevails"),
    ],
)
def test_a_label_that_prevails_in_a_split_is_told(
    tmp_path: Path, kind: str, meta: dict[str, Any], what: str
) -> None:
    rows = records(kind)
    rows[12:17] = [dataclasses.replace(row, meta=meta) for row in rows[12:17]]  # five of six
    (one,) = failed(checked(tmp_path, rows))
    assert (one.what, one.threshold) == (what, "max_label_share")
    (told,) = one.sample
    assert (told["key"], told["split"]) == (next(iter(meta.get("answers", meta.values()))), "val")
    assert told["share"] == pytest.approx(5 / 6)
    assert check(tmp_path / "toy", max_label_share=0.84)[0].passed


def test_comparisons_have_two_images(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, more=row.more * 2) for row in records("comparisons")]
    (one,) = failed(checked(tmp_path, rows))
    assert (one.what, one.failed) == ("records have two images", COUNT)


def test_each_source_has_the_kind_of_most_of_its_records(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, source="asked") for row in records("questions")]
    rows += [
        toy.record(100 + i, image=picture(100 + i), source="told", split="train") for i in range(9)
    ]
    rows.append(toy.record(200, image=picture(200), source="told", meta={"label": "a"}))
    result = checked(tmp_path, rows)
    assert result.reasons() == []
    assert result.statistics["kinds"] == {"captions": 10, "questions": COUNT}
    assert {one.suite for one in result.checks} == {COMMON, "captions", "questions"}


def test_training_rows_without_any_annotation_are_refused(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(row, meta={"question_id": i})
        for i, row in enumerate(records("questions"))
    ]
    (one,) = failed(checked(tmp_path, rows))
    assert (one.what, one.failed, one.counted) == ("questions have an answer", 12, 12)


def test_meta_of_any_shape_is_read(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [
        {"answers": {"a": "much", "b": None}},
        {"box": "here", "proposals": [["x"], 3, None]},
        {"box": [1, 2], "proposals": {"a": 1}},
        {"box": None, "proposals": 3},
        {"box": [1, 2, 3, 4], "proposals": 3},
        {"label": {"label": 3}},
        {"answers": {"x": 1}, "label": "y", "box": [0, 0, 1, 1]},
    ]
    rows = [toy.record(i, image=picture(i), meta=meta) for i, meta in enumerate(odd)]
    assert isinstance(checked(tmp_path, rows), Result)


def test_every_threshold_is_used_and_every_expectation_is_explained() -> None:
    items = [item for name in (COMMON, *KINDS) for item in read_suite(name)]
    used = {item["meta"].get("threshold") for item in items} - {None}
    partners = {"min_caption_words", "max_caption_images", "scripts", "min_image_spread", "drift"}
    assert used | partners == set(VALUES)
    text = json.dumps(items)
    assert all(f'{{"$PARAMETER": "{name}"}}' in text for name in partners - {"drift"})
    assert all(item["meta"]["what"] for item in items)
