"""Weights of sources: what an epoch shows depends on seed and epoch alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.config import read_yaml, validate
from albef.data.shards import Shards
from albef.loading.loader import Loader
from albef.loading.mixing import Mixture
from albef.tasks.pretraining import Config
from tests.data import toy
from tests.loading.test_loader import batches, collate

SOURCES = ["coco"] * 7 + ["web"] * 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("mixed") / "toy"
    toy.write(folder, [toy.record(i, source=source) for i, source in enumerate(SOURCES)])
    return Shards(folder, "train")


def ids(shards: Shards, weights: dict[str, float] | None, epochs: int, seed: int = 5) -> list[int]:
    loader = Loader(shards, collate, 1, 1, seed, 0, weights=weights)
    return [int(b["id"]) for b in batches(loader, 0, epochs * loader.steps_per_epoch)]


@settings(max_examples=60, deadline=None)
@given(
    weight=st.floats(0, 6), epochs=st.integers(1, 8), seed=st.integers(0, 2**40),
    size=st.integers(1, 20),
)  # fmt: skip
def test_every_record_is_shown_as_often_as_any_other_of_its_source(
    weight: float, epochs: int, seed: int, size: int
) -> None:
    mixture = Mixture(pa.array(["b"] * 3 + ["a"] * size), {"a": weight}, seed)
    shown = [mixture.epoch(epoch) for epoch in range(epochs)]
    assert {len(one) for one in shown} == {len(mixture)}
    counts = Counter(int(place) for one in shown for place in one)
    assert [counts[i] for i in range(3)] == [epochs] * 3
    own = [counts[3 + i] for i in range(size)]
    assert max(own) - min(own) <= 1
    assert sum(own) == epochs * (max(1, round(weight * size)) if weight else 0)


def test_epochs_hold_passes_by_weight(shards: Shards) -> None:
    counts = Counter(ids(shards, {"coco": 3, "web": 0.5}, 2))
    assert [counts[i] for i in range(7)] == [6] * 7
    assert [counts[i] for i in range(7, 23)] == [1] * 16
    counts = Counter(ids(shards, {"web": 0}, 1))
    assert sorted(counts) == list(range(7))


def test_without_weights_batches_are_what_they_were(shards: Shards) -> None:
    plain = [int(i) for i in np.random.default_rng([5, 0, 0]).permutation(23)]
    assert ids(shards, None, 1) == ids(shards, {}, 1) == plain
    assert sorted(ids(shards, {"coco": 1.0}, 1)) == list(range(23))


def test_a_start_in_the_middle_and_processes_read_the_same(shards: Shards) -> None:
    weights = {"coco": 2.5}
    whole = Loader(shards, collate, 4, 2, 9, 0, weights=weights)
    assert whole.steps_per_epoch == (16 + 18) // 4
    later = batches(whole, 0, 20)[2 * 11 :]
    for a, b in zip(later, batches(whole, 11, 20), strict=True):
        assert torch.equal(a["image"], b["image"])
    halves = [Loader(shards, collate, 4, 2, 9, 0, (rank, 2), weights=weights) for rank in (0, 1)]
    for step in (0, 9, 17):
        (both,) = whole.batches(step, step + 1)
        parts = [batch for one in halves for batch in next(one.batches(step, step + 1))]
        assert [b["id"].tolist() for b in both] == [b["id"].tolist() for b in parts]


def test_seeds_and_epochs_differ(shards: Shards) -> None:
    weights = {"coco": 0.5}
    one, two = (ids(shards, weights, 1, seed) for seed in (1, 2))
    assert one != two
    both = ids(shards, weights, 2, 1)
    assert both[: len(one)] == one
    assert sorted(both[: len(one)]) != sorted(both[len(one) :])


def test_a_weight_of_no_source(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source_weights names cocoa; the sources are coco, web"):
        Loader(shards, collate, 1, 1, 1, 0, weights={"cocoa": 2.0})
    with pytest.raises(ValueError, match="has 7 records in split train, fewer than a batch of 8"):
        Loader(shards, collate, 8, 8, 1, 0, weights={"web": 0.0})


def test_a_training_without_weights_tells_of_none() -> None:
    values = read_yaml(Path(__file__).parents[2] / "params.yaml")["pretrain"]
    plain = validate(Config, values, where="params.yaml")
    assert "source_weights" not in plain.model_dump(), "what it made before stays as it is"
    weighed = validate(Config, {**values, "source_weights": {"web": 2}}, where="params.yaml")
    assert weighed.model_dump()["source_weights"] == {"web": 2.0}
