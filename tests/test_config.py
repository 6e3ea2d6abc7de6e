"""What a wrong value says."""

import itertools
from pathlib import Path

import pytest

from albef.config import ParamsError, Section, Tunable, choose, fixed, ranges, read_yaml, validate
from albef.tasks.task import RunConfig


class Inner(Section):
    width: int
    """A number."""


class Outer(Section):
    lr: Tunable
    """A value or a range."""
    sizes: tuple[float, float]
    """Two numbers."""
    inner: Inner
    """A section."""


GOOD = {"lr": 1e-3, "sizes": [0.5, 1], "inner": {"width": 3}}
RANGE = {"low": 1e-5, "high": 1e-3, "log": True, "start": 1e-4}


def error(values: object) -> str:
    with pytest.raises(ParamsError) as caught:
        validate(Outer, values, where="params.yaml", key="outer")
    return str(caught.value)


def test_good_values_are_frozen() -> None:
    outer = validate(Outer, GOOD, where="params.yaml")
    assert outer.sizes == (0.5, 1.0)
    with pytest.raises(ValueError, match="frozen"):
        outer.inner.width = 4  # type: ignore[misc]


def test_an_unknown_key_names_the_nearest_one() -> None:
    assert error({**GOOD, "inner": {"widht": 3}}).splitlines() == [
        "params.yaml: outer.inner.width is missing",
        "params.yaml: outer.inner.widht is not a known key; did you mean outer.inner.width?",
    ]


WRONG = [
    ({**GOOD, "inner": {"width": "3"}}, "outer.inner.width: input should be a valid integer"),
    ({**GOOD, "inner": {"width": True}}, "outer.inner.width: input should be a valid integer"),
    ({**GOOD, "lr": "1e-4"}, "outer.lr: input should be a valid number, got '1e-4'"),
    ({**GOOD, "sizes": [1.0]}, "outer.sizes.1 is missing"),
    ({**GOOD, "lr": {**RANGE, "low": 1}}, "outer.lr: low 1 must be below high"),
    ({**GOOD, "lr": {**RANGE, "start": 1}}, "outer.lr: start 1 must be in 1e-05"),
    ({**GOOD, "lr": {**RANGE, "low": -1.0}}, "outer.lr.low: input should be greater than or"),
    ({**GOOD, "lr": {**RANGE, "low": 0}}, "outer.lr: low must be above 0 in a log"),
    ({**GOOD, "lr": -1e-3}, "outer.lr: input should be greater than or equal to 0, got -0.001"),
    ({**GOOD, "lr": {"low": 0.1}}, "outer.lr.high is missing"),
    ({**GOOD, "lr": float("nan")}, "not a number, string, list"),
]


def test_a_wrong_value_is_a_sentence_with_its_key() -> None:
    told = [(error(values), says) for values, says in WRONG]
    assert [(sentence, says) for sentence, says in told if says not in sentence] == []


def test_a_suggestion_ends_its_sentence() -> None:
    values = {"kind": "retrieval", "freeze": ["image_encodr"]}
    with pytest.raises(ParamsError, match=r"no part image_encodr; did you mean image_encoder\?\n"):
        validate(RunConfig, values, where="params.yaml")


def test_a_choice_fills_exactly_the_ranges() -> None:
    outer = validate(Outer, {**GOOD, "lr": RANGE}, where="params.yaml")
    assert list(ranges(outer)) == ["lr"]
    with pytest.raises(ParamsError, match="run the stage search"):
        fixed(outer.lr)
    assert fixed(choose(outer, {"lr": 2e-4}).lr) == 2e-4
    for wrong in ({}, {"lr": 2e-4, "width": 1.0}):
        with pytest.raises(ParamsError, match="run the search again"):
            choose(outer, wrong)


def test_yaml_is_read_as_version_1_2(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-4\nb: on\n")
    assert read_yaml(path) == {"a": 1e-4, "b": "on"}
    for text, message in (
        ("a: [1\n", "is not valid YAML"),
        ("[" * 400, "is not valid YAML"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("", "must be a mapping"),
        ("a: {x: 1}\nb: 1\na: {y: 2}\n", 'is not valid YAML: line 3, found duplicate key "a"'),
    ):
        path.write_text(text)
        with pytest.raises(ParamsError, match=message):
            read_yaml(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ParamsError, match="is not valid YAML"):
        read_yaml(path)
    with pytest.raises(ParamsError, match="does not exist; run from the root"):
        read_yaml(tmp_path / "other.yaml")


def test_aliases_count_as_the_values_that_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: &a {x: 1}\nb: [*a, *a]\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}
    bombs = ["a: &a [*a]"]
    for form in ("[{}]", "{{<<: [{}]}}"):
        pairs = itertools.pairwise("abcdefghijk")
        nine = [f"{b}: &{b} " + form.format(", ".join([f"*{a}"] * 9)) for a, b in pairs]
        bombs.append("\n".join(["a: &a {x: 1}", *nine]))
    for text in bombs:
        path.write_text(text)
        with pytest.raises(ParamsError, match="more than 100,000 values after expanding"):
            read_yaml(path)
