"""The suites of questions, statements, comparisons and expressions, and how a kind is known."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albef.data.record import Record
from albef.validation.annotations import KINDS
from albef.validation.config import ValidateConfig
from albef.validation.result import Result
from albef.validation.suites import COMMON, read_suite
from tests.data import toy
from tests.validation.test_suites import picture
from tests.validation.values import check, failed_suites, keys, written

COUNT = 24
VE = ("contradiction", "neutral", "entailment")


META: dict[str, Callable[[int], dict[str, Any]]] = {
    "questions": lambda i: {
        "answers": {("yes", "no", "two")[i % 3]: 1.0, "perhaps": 0.3}, "question_id": i
    },
    "statements": lambda i: {"label": VE[i % 3]},
    "comparisons": lambda i: {"label": ("True", "False")[i % 2]},
    "expressions": lambda i: {
        "ref_id": i, "box": [2, 2, 10, 10], "proposals": [[2, 3, 10, 10], [20, 2, 8, 8]]
    },
}  # fmt: skip
"""Annotations of a record by kind."""


def records(kind: str) -> list[Record]:
    """Records of a kind in three splits, the last of which is without annotations."""
    made = []
    for i, split in enumerate(("train",) * 12 + ("val",) * 6 + ("test",) * 6):
        meta = META[kind](i)
        if split == "test":
            meta = {name: meta[name] for name in ("ref_id", "question_id") if name in meta}
        own = {"image": picture(i), "split": split, "meta": meta, "captions": ("some words",)}
        own |= {"more": (picture(100 + i),)} if kind == "comparisons" else {}
        made.append(toy.record(i, **own))
    return made


def checked(folder: Path, rows: list[Record]) -> Result:
    return check(written(folder / "toy", rows))[0]


def test_a_good_dataset_of_each_kind_passes_and_its_test_split_needs_no_answers(
    tmp_path: Path,
) -> None:
    for kind in META:
        result = checked(tmp_path / kind, records(kind))
        assert result.reasons() == []
        suites = [one.suite for one in result.checks if one.suite != COMMON]
        assert suites == [kind] * len(read_suite(kind))
        assert result.statistics["kinds"] == {kind: COUNT}


OUTSIDE = {"box": [32, 2, 10, 10], "proposals": [[32, 2, 8, 10]]}
EMPTY = {"box": [2, 2, 10, 10], "proposals": [[2, 2, 10, 10], [2, 2, 0, 10]]}
UNPROPOSED = {"box": [2, 2, 10, 10], "proposals": [[20, 2, 10, 10]]}
TWO_TEXTS = [{"captions": ("a b", "c d")}]
FAULTS: list[tuple[str, dict[str, list[dict[str, Any]]], dict[str, Any]]] = [
    ("questions", {
        "questions have an answer": [{"meta": {"question_id": 4}}, {"meta": {"answers": []}}],
        "records have one question": TWO_TEXTS,
    }, {"answers": {"yes": 1.0}}),
    ("statements", {
        "statements are labelled": [{"meta": {}}, {"meta": {"label": "true"}}],
        "records have one statement": TWO_TEXTS,
    }, {"label": "neutral"}),
    ("comparisons", {
        "statements are labelled": [{"meta": {"label": True}}],
        "records have one statement": TWO_TEXTS,
    }, {"label": "True"}),
    ("expressions", {
        "expressions have a box": [{"meta": {"ref_id": 4}}],
        "boxes are within their image": [{"meta": OUTSIDE}, {"meta": EMPTY}],
        "proposals cover the box": [{"meta": UNPROPOSED}],
    }, {}),
]  # fmt: skip
"""By kind, one fault each of records and the only expectation that fails for it; annotations that
prevail."""


@pytest.mark.parametrize(("kind", "faults", "meta"), FAULTS)
def test_each_fault_fails_one_expectation_which_names_its_record(
    tmp_path: Path, kind: str, faults: dict[str, list[dict[str, Any]]], meta: dict[str, Any]
) -> None:
    rows, number = records(kind), 3
    expected: dict[str, list[str]] = {}
    for what, fault_rows in faults.items():
        expected[what] = [f"toy-{number + i:04d}" for i in range(len(fault_rows))]
        for fault in fault_rows:
            rows[number] = dataclasses.replace(rows[number], **fault)
            number += 1
    if meta:  # of five of six in the split val
        rows[12:17] = [dataclasses.replace(row, meta=meta) for row in rows[12:17]]
        name = next(iter(meta.get("answers", meta.values())))
        expected[f"no {'answer' if 'answers' in meta else 'label'} prevails"] = [name]
    checks = failed_suites(written(tmp_path / "toy", rows))
    assert {one.what: keys(one) for one in checks} == expected
    assert {one.suite for one in checks} == {kind}
    assert all(one.failed == len(expected[one.what]) for one in checks)
    shares = [one.sample[0] for one in checks if one.threshold == "max_label_share"]
    assert all((row["split"], row["share"]) == ("val", pytest.approx(5 / 6)) for row in shares)


def test_comparisons_have_two_images(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, more=row.more * 2) for row in records("comparisons")]
    (one,) = failed_suites(written(tmp_path / "toy", rows))
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
    (one,) = failed_suites(written(tmp_path / "toy", rows))
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
    assert used | partners == ValidateConfig.model_fields.keys() - {"accepted"}
    text = json.dumps(items)
    assert all(f'{{"$PARAMETER": "{name}"}}' in text for name in partners - {"drift"})
    assert all(item["meta"]["what"] for item in items)
    assert all(item["meta"].get("threshold", "") in json.dumps(item["kwargs"]) for item in items)
