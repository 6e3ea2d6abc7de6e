"""Profiles, accepted ones, and how far data sets are from them."""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from albef.config import ParamsError
from albef.data.record import Record
from albef.data.shards import read_index
from albef.io import write_json
from albef.validation import drift, profile
from albef.validation.image_stats import read_image_stats
from albef.validation.result import DriftResult, Result
from albef.validation.tables import Tables, tables
from tests.data import toy
from tests.validation.test_suites import picture
from tests.validation.values import FREE, config, written

LIMITS = {
    "accepted": {"divergence": {"warn": 0.1, "stop": 0.5}, "shift": {"warn": 0.25, "stop": 1.0}},
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


def parts(folder: Path, records: Sequence[Record]) -> dict[str, Tables]:
    index = read_index(written(folder, records)).combine_chunks()
    return profile.parts(tables(index, read_image_stats(folder, threads=1)))


def profiled(folder: Path, records: Sequence[Record]) -> drift.Profile:
    return profile.profile(folder.name, "digest", parts(folder, records))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> drift.Profile:
    return profiled(tmp_path_factory.mktemp("own") / "own", rows())


def against(
    folder: Path, records: Sequence[Record], held: drift.Profile = drift.NO_PROFILE, **limits: Any
) -> Result:
    own = parts(folder / "toy", records)
    described = profile.profile("toy", "digest", own)
    limited = config(drift={**LIMITS, **limits}).drift
    found = drift.measure_drift(own, described, held, limited)
    return Result("toy", "digest", (), {}, tuple(found))


def level(result: Result, level: str) -> list[DriftResult]:
    return [drifted for drifted in result.drift if drifted.level == level]


def test_a_dataset_is_not_far_from_its_own_profile_in_any_order(
    tmp_path: Path, held: drift.Profile
) -> None:
    mixed = random.Random(1).sample(rows(), 24)
    path = tmp_path / "own.json"
    write_json(path, held)  # which sorts its keys
    result = against(tmp_path, mixed, drift.read_accepted(path))
    again = profiled(tmp_path / "again", mixed[::-1])
    assert json.dumps(again["parts"]) == json.dumps(held["parts"])
    assert result.passed
    assert result.warnings() == []
    own = [drifted for drifted in result.drift if drifted.reference == "accepted"]
    assert {drifted.part for drifted in own} == {"train", "evaluation"}
    assert max(drifted.value or 0 for drifted in own) <= 1.1e-4
    assert {drifted.of for drifted in own} == {
        *(column.what for column in profile.COLUMNS), "vocabulary"
    }  # fmt: skip


def test_longer_captions_stop_a_new_version_with_what_where_and_which_key(
    tmp_path: Path, held: drift.Profile
) -> None:
    result = against(tmp_path, rows(long=0.6), held)
    assert not result.passed
    stopped = {(drifted.of, drifted.part, drifted.measure) for drifted in level(result, "stopped")}
    assert ("words of a caption", "train", "divergence") in stopped
    assert ("vocabulary", "train", "divergence") in stopped
    assert not {of for of, _, _ in stopped} - {"words of a caption", "vocabulary"}
    expected = (
        r"words of a caption: divergence .* nats from that of the accepted profile \(train rows\), "
        r"at most 0\.5 is allowed \(validate\.drift\.accepted\.divergence\.stop\)"
    )
    assert any(re.fullmatch(expected, reason) for reason in result.reasons())


def test_a_small_drift_warns_and_does_not_stop(tmp_path: Path, held: drift.Profile) -> None:
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
    held = profiled(tmp_path / "even", labelled(even))
    result = against(tmp_path, labelled(("neutral",) * 5 + ("entailment",)), held)
    assert [drifted.of for drifted in level(result, "stopped")] == ["labels"]


def test_training_data_are_held_against_what_they_are_tested_on(tmp_path: Path) -> None:
    records = rows(48)
    far = [
        toy.record(100 + i, image=picture(i * 9), image_id=i, split="test", captions=("so " * 9,))
        for i in range(24)
    ]
    result = against(tmp_path, [*records[:36], *far], evaluation=TIGHT)
    of = {drifted.of for drifted in level(result, "stopped")}
    assert of >= {"words of a caption", "vocabulary"}
    said = (
        r"vocabulary: .* from that of the evaluation splits, .*validate\.drift\.evaluation\.diver"
    )
    assert any(re.match(said, reason) for reason in result.reasons())
    assert {drifted.reference for drifted in result.drift} == {"evaluation"}


def test_undecodable_images_are_left_out_of_the_profile(tmp_path: Path) -> None:
    broken = [toy.record(90 + i, image=picture(i)[:60], split="train") for i in range(3)]
    own = profiled(tmp_path / "toy", [*rows(), *broken])
    (red,) = (n for n in own["parts"]["train"]["numbers"] if n["column"] == "red")
    assert (own["parts"]["train"]["records"], sum(red["counts"])) == (21, 18)


def test_distances_by_hand() -> None:
    words = {"values": ["a", "b", profile.OTHER], "counts": [2, 1, 1]}
    ((_, far),) = drift.distances(words, Counter(a=1, b=1, c=1, d=1))
    assert far == pytest.approx(0.25 * np.log(0.5) + 0.5 * np.log(2), abs=1e-3)
    numbers = {"bins": [0, 5, 10], "counts": [4, 4], "quantiles": [0, 2, 4, 6, 8]}  # 4 becomes 9
    found = dict(drift.distances(numbers, pd.Series([1, 3, 5, 7, 9, 9, 9, 9])))
    divergence = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert found == pytest.approx({"divergence": divergence, "shift": 5 / 8}, abs=1e-3)


def test_a_file_that_is_not_an_accepted_profile_is_named(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    with pytest.raises(ParamsError, match=r"web\.json is missing"):
        drift.read_accepted(path)
    for text in ("{", "[]", '{"expectations": []}'):
        path.write_text(text)
        with pytest.raises(ParamsError, match=r"web\.json is not an accepted profile"):
            drift.read_accepted(path)
