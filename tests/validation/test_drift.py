"""Profiles, accepted ones, and how far data sets are from them."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from albef.config import ParamsError
from albef.data.record import Record
from albef.validation import drift, profile
from albef.validation.result import DriftResult, Result
from tests.data import toy
from tests.validation.test_suites import picture
from tests.validation.values import FREE, check, written

LIMITS = {
    "accepted": {
        "divergence": {"warn": 0.1, "stop": 0.5},
        "shift": {"warn": 0.25, "stop": 1.0},
    },
    "evaluation": FREE["evaluation"],
}
TIGHT = {**FREE["evaluation"], "divergence": {"warn": 0.1, "stop": 0.5}}


def rows(count: int = 24, *, long: float = 0.0, **changed: Any) -> list[Record]:
    """Records of which a share has long captions; the last quarter is evaluated on."""
    made = []
    for i in range(count):
        text = "a dog left of an apple" if i % 3 else "a frog"
        if (i % 12) / 12 < long:
            text = "what is said here goes on and on and on"
        split = "val" if i >= 0.75 * count else "train"
        own = {"image": picture(i * 9), "captions": (text,), "split": split, **changed}
        made.append(toy.record(i, **own))
    return made


def accepted(folder: Path, records: Sequence[Record]) -> dict[str, Any]:
    """The profile of a data set as it is read after it was accepted."""
    own = check(written(folder / "accepted", records))[1]
    (folder / "toy.json").write_text(drift.accepted_suite(own))
    return drift.read_accepted(folder / "toy.json")


@pytest.fixture(scope="module")
def own_profile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The profile of those records."""
    return check(written(tmp_path_factory.mktemp("own") / "accepted", rows()))[1]


@pytest.fixture(scope="module")
def profile_file(own_profile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that accepts it."""
    path = tmp_path_factory.mktemp("profile") / "toy.json"
    path.write_text(drift.accepted_suite(own_profile))
    return path


@pytest.fixture(scope="module")
def held(profile_file: Path) -> dict[str, Any]:
    """What it expects."""
    return drift.read_accepted(profile_file)


@pytest.fixture(scope="module")
def longer(
    held: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, Any]]:
    """What is found of a version with longer captions, and its profile."""
    folder = written(tmp_path_factory.mktemp("longer") / "toy", rows(long=0.6))
    return check(folder, held, drift=LIMITS)


def against(folder: Path, records: Sequence[Record], held: dict[str, Any], **limits: Any) -> Result:
    values = {"max_caption_images": 1.0, "max_shared_images": 1.0, "max_duplicate_images": 1.0}
    data = written(folder / "toy", records)
    return check(data, held, drift={**LIMITS, **limits}, **values)[0]


def level(result: Result, level: str) -> list[DriftResult]:
    return [drifted for drifted in result.drift if drifted.level == level]


def test_a_dataset_is_not_far_from_its_own_profile_in_any_order(
    tmp_path: Path, own_profile: dict[str, Any], held: dict[str, Any]
) -> None:
    mixed = random.Random(1).sample(rows(), 24)
    result = against(tmp_path, mixed, held)
    again = check(written(tmp_path / "accepted", mixed[::-1]))[1]
    assert json.dumps(again["parts"]) == json.dumps(own_profile["parts"])
    assert result.passed
    assert result.warnings() == []
    own = [drifted for drifted in result.drift if drifted.reference == "accepted"]
    assert {drifted.part for drifted in own} == {"train", "evaluation"}
    assert max(drifted.value or 0 for drifted in own) <= 1.1e-4
    assert {drifted.of for drifted in own} == {
        *(column.what for column in profile.COLUMNS), "vocabulary"
    }  # fmt: skip
    assert result.accepted == held["digest"]


def test_longer_captions_stop_a_new_version_with_what_where_and_which_key(
    longer: tuple[Result, dict[str, Any]],
) -> None:
    result, _ = longer
    assert not result.passed
    stopped = {(drifted.of, drifted.part, drifted.measure) for drifted in level(result, "stopped")}
    assert ("words of a caption", "train", "divergence") in stopped
    assert ("vocabulary", "train", "divergence") in stopped
    assert not {of for of, _, _ in stopped} - {"words of a caption", "vocabulary"}
    (sentence,) = (
        reason
        for reason in result.reasons()
        if reason.startswith("words of a caption: divergence") and "(train rows)" in reason
    )
    assert (
        " nats from that of the accepted profile (train rows), at most 0.5 is allowed" in sentence
    )
    assert sentence.endswith("(validate.drift.accepted.divergence.stop)")


def test_a_small_drift_warns_and_does_not_stop(tmp_path: Path, held: dict[str, Any]) -> None:
    loose = {"divergence": {"warn": 0.1, "stop": 9.0}, "shift": {"warn": 0.25, "stop": 9.0}}
    result = against(tmp_path, rows(long=0.2), held, accepted=loose)
    assert result.passed
    assert level(result, "warned")
    assert all("validate.drift.accepted." in warning for warning in result.warnings())
    assert all(warning.endswith(".warn)") for warning in result.warnings())


def test_labels_are_watched(tmp_path: Path) -> None:
    def labelled(names: Sequence[str]) -> list[Record]:
        return [
            toy.record(i, image=picture(i * 9), captions=("a dog",), meta={"label": names[i % 6]})
            for i in range(24)
        ]

    even = ("neutral", "entailment", "contradiction") * 2
    held = accepted(tmp_path, labelled(even))
    result = against(tmp_path, labelled(("neutral",) * 5 + ("entailment",)), held)
    assert [drifted.of for drifted in level(result, "stopped")] == ["labels"]


def test_training_data_are_held_against_what_they_are_tested_on(tmp_path: Path) -> None:
    records = rows(48)
    far = [
        toy.record(100 + i, image=picture(i * 9), image_id=i, split="test", captions=("so " * 9,))
        for i in range(24)
    ]
    held = drift.read_accepted(None)
    result = against(tmp_path, [*records[:36], *far], held, evaluation=TIGHT)
    of = {drifted.of for drifted in level(result, "stopped")}
    assert of >= {"words of a caption", "vocabulary"}
    assert any(
        reason.startswith("vocabulary: divergence of ")
        and reason.endswith(
            " nats from that of the evaluation splits, at most 0.5 is allowed "
            "(validate.drift.evaluation.divergence.stop)"
        )
        for reason in result.reasons()
    )
    assert {drifted.reference for drifted in result.drift} == {"evaluation"}


def test_training_data_are_held_against_another_dataset_that_models_are_tested_on(
    tmp_path: Path,
) -> None:
    halves = [replace(row, split=("train", "val")[i % 2]) for i, row in enumerate(rows(48))]
    accepted(tmp_path, halves)
    held = drift.read_evaluated(tmp_path / "toy.json")
    long = [replace(record, split="train") for record in rows(48, long=1.0)]
    values = {"max_caption_images": 1.0, "drift": {**LIMITS, "evaluation": TIGHT}}
    result, own = check(written(tmp_path / "toy", long), evaluated=held, **values)
    assert list(own["parts"]) == ["train"]
    assert {(drifted.reference, drifted.name, drifted.part) for drifted in result.drift} == {
        ("evaluation", "accepted", "train")
    }
    assert {drifted.of for drifted in level(result, "stopped")} == {
        "words of a caption",
        "vocabulary",
    }
    assert any(
        " nats from that of the evaluation splits of accepted, at most 0.5 is allowed " in reason
        for reason in result.reasons()
    )
    near = written(tmp_path / "near", [replace(record, split="train") for record in rows(48)])
    assert check(near, evaluated=held, **values)[0].passed


def test_the_profile_of_training_data_says_nothing_of_evaluation(tmp_path: Path) -> None:
    accepted(tmp_path, [replace(record, split="train") for record in rows()])
    with pytest.raises(ParamsError, match=r"toy\.json is .* without evaluation splits"):
        drift.read_evaluated(tmp_path / "toy.json")


def test_undecodable_images_are_left_out_of_the_profile(tmp_path: Path) -> None:
    broken = [toy.record(90 + i, image=picture(i)[:60], split="train") for i in range(3)]
    own = check(written(tmp_path / "toy", [*rows(), *broken]))[1]
    (red,) = (n for n in own["parts"]["train"]["numbers"] if n["column"] == "red")
    assert (own["parts"]["train"]["records"], sum(red["counts"])) == (21, 18)


def test_a_profile_is_accepted_alike_after_json_has_sorted_it(own_profile: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(own_profile, sort_keys=True))
    assert drift.accepted_suite(stored) == drift.accepted_suite(own_profile)


def test_distances_are_what_great_expectations_observes() -> None:
    import great_expectations as gx

    rng = np.random.default_rng(0)
    numbers, words = pd.Series(rng.poisson(7, 900)), pd.Series([*"aabbbbbbcd"] * 90)
    counts, bins = np.histogram(rng.poisson(9, 900), np.arange(30))
    assert 0 in counts, "a bin that has nothing"
    asset = gx.get_context(mode="ephemeral").data_sources.add_pandas("a").add_dataframe_asset("a")
    batch = asset.add_batch_definition_whole_dataframe("a").get_batch(
        {"dataframe": pd.DataFrame({"number": numbers, "word": words})}
    )
    for column, values, partition, held_out in (
        ("number", numbers, {"bins": bins.tolist(), "weights": [*(counts / counts.sum())]},
         "internal_weight_holdout"),
        ("word", Counter(words), {"values": [*"abc"], "weights": [0.5, 0.3, 0.2]},
         "tail_weight_holdout"),
    ):  # fmt: skip
        kwargs = {"column": column, "partition_object": partition, held_out: 1e-4}
        expected = gx.expectations.ExpectColumnKLDivergenceToBeLessThan(threshold=9.0, **kwargs)
        observed = batch.validate(expected).result["observed_value"]
        assert drift.distance(kwargs, values) == pytest.approx(observed)


def test_a_file_that_is_not_an_accepted_profile_is_named(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    with pytest.raises(ParamsError, match=r"web\.json is missing"):
        drift.read_accepted(path)
    for text in ("{", "[]", '{"expectations": []}'):
        path.write_text(text)
        with pytest.raises(ParamsError, match=r"web\.json is not an accepted profile"):
            drift.read_accepted(path)
