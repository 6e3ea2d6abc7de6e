"""The cases that rules make of records."""

from pathlib import Path
from typing import Any

import pytest

from albef.builtin import scenes
from albef.builtin.describe import Scene, true_of
from albef.config import validate
from albef.data.record import Record
from albef.evaluation.behaviour import cases
from albef.evaluation.behaviour.suite import Suite, read_suite
from tests.builtin.drawn import scene_from
from tests.builtin.test_describe import parse

ENGLISH = read_suite(Path(__file__).parents[3] / "behaviour/english.json")


def made(suite: Suite, rows: list[Record], most: int = 1000, **changed: Any) -> list[cases.Case]:
    claims = changed.get("claims", [row.captions for row in rows])
    return cases.make_cases(suite, rows, claims, most)


@pytest.fixture(scope="module")
def rows() -> list[Record]:
    values = {
        "kind": "scenes", "objects": 16, "pixels": 32, "splits": {"test": 200}, "captions": 1,
        "caption_noise": 0.0, "unseen": 0.2,
    }  # fmt: skip
    return list(scenes.records(validate(scenes.Config, values, where="tests"), 1))


def test_every_test_has_cases_of_the_built_in_scenes(rows: list[Record]) -> None:
    found = made(ENGLISH, rows)
    names = [case.test for case in found]
    assert list(dict.fromkeys(names)) == list(ENGLISH.tests)
    assert all(names.count(name) >= 20 for name in ENGLISH.tests)
    for case in found:
        assert case.key == rows[case.index].key
        assert case.caption in rows[case.index].captions
        assert case.changed != case.caption
    assert found == made(ENGLISH, rows), "they depend on nothing else"


def scene_of(row: Record) -> Scene:
    return scene_from(row.meta)


def test_what_is_changed_is_false_and_what_is_reworded_is_true(rows: list[Record]) -> None:
    for case in made(ENGLISH, rows):
        scene, claim = scene_of(rows[case.index]), parse(case.changed.replace("bicycle", "bike"))
        if case.test == "unrelated":
            assert not {g.name for g in claim.groups} & {g.name for g in scene.groups}
        else:
            expected = case.test in ("synonym", "paraphrase", "short")
            assert true_of(claim, scene) == expected, case


def test_cases_are_taken_at_even_steps(rows: list[Record]) -> None:
    found = made(ENGLISH, rows, most=8)
    for name in ENGLISH.tests:
        indices = [case.index for case in found if case.test == name]
        assert len(indices) == 8
        assert max(indices) - min(indices) > 40
    texts = {(c.index, c.caption) for c in found if c.test != "unrelated"}
    beside = {(c.index, c.caption) for c in found if c.test == "unrelated"}
    assert beside <= texts, "an unrelated text stands beside others of its picture"


def test_an_unrelated_text_is_about_nothing_that_the_image_is_known_to_show() -> None:
    rows = [
        Record("a", b"", ("a dog",), 1, "test", "x", {"objects": [{"name": "cat"}]}),
        Record("b", b"", ("two cats",), 2, "test", "x"),
        Record("c", b"", ("two dogs",), 1, "test", "x"),  # of the same picture
        Record("d", b"", ("a picture",), 3, "test", "x"),  # is about nothing
        Record("e", b"", ("A Boat.",), 4, "test", "x"),
    ]
    suite = validate(
        Suite,
        {"source": "", "common": ["a", "two", "picture"],
         "tests": {"other": {"expects": "lowest", "another": True}}},
        where="tests",
    )  # fmt: skip
    found = {case.key: case.changed for case in made(suite, rows)}
    assert found["a"] == found["c"] == "A Boat."
    assert found["e"] in ("a dog", "two cats", "two dogs")
    assert found["b"] in ("a dog", "two dogs", "A Boat.")


def test_where_nothing_is_claimed_there_are_no_cases(rows: list[Record]) -> None:
    assert made(ENGLISH, rows, claims=[()] * len(rows)) == []
