"""Which records an epoch shows, by weights of their sources, and in which order, in windows of
shards.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.cache import ShardCache
from albef.data.record import Record
from albef.data.shards import ShardError, Shards
from albef.data.store import Store, Stored
from albef.loading.loader import Loader
from albef.loading.pipeline import Reading
from albef.loading.reading import Batch
from albef.loading.sampler import Mixture, Pool
from tests.data import toy

COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 records of two sources in ten shards, in a store."""
    folder = tmp_path_factory.mktemp("windows")
    records = [toy.noisy(i, source="ab"[i % 3 == 0]) for i in range(COUNT)]
    described = toy.write(folder / "toy", records, store=str(folder / "store"))
    assert described["shards"] == 10
    return folder


def shards(folder: Path, limit: int = 2**30, name: str = "cache") -> Shards:
    return Shards(folder / "toy", "train", cache=ShardCache(folder / name, limit))


def collate(records: Sequence[Record], rng: np.random.Generator) -> Batch:
    ids = [record.image_id for record in records]
    return {"id": torch.tensor(ids), "draw": torch.tensor(rng.random())}


@settings(max_examples=20)
@given(
    window=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    micro=st.sampled_from([1, 2, 5]),
    processes=st.sampled_from([1, 2, 3]),
    pool=st.sampled_from([Pool(), Pool(2), Pool(2, "source")]),
    start=st.integers(0, 3),
    weights=st.sampled_from([None, {"a": 1.5, "b": 0.0}]),
)
def test_any_start_and_number_of_processes_give_the_same_micro_batches(
    folder: Path, window: int, seed: int, micro: int, processes: int, pool: Pool, start: int,
    weights: dict[str, float] | None,
) -> None:  # fmt: skip
    split, size = shards(folder), 30
    processes = 1 if 30 // micro % processes else processes

    def of(rank: int, among: int) -> Loader:
        share = (rank, among)
        return Loader(split, collate, size, micro, seed, 0, share, pool, weights, Reading(window))

    def drawn(batches: Iterable[Batch]) -> list[tuple[list[int], float]]:
        return [(batch["id"].tolist(), batch["draw"].item()) for batch in batches]

    alone, together = of(0, 1), [of(rank, processes) for rank in range(processes)]
    steps = [drawn(step) for step in alone.batches(0, 4)]
    first_epoch = [i for step in steps[:2] for ids, _ in step for i in ids]
    assert weights or sorted(first_epoch) == list(range(COUNT))
    parts = zip(*(one.batches(start, 4) for one in together), strict=True)
    assert [drawn(itertools.chain(*step)) for step in parts] == steps[start:]
    numbers = [number for one in together for number in one.numbers(start)]
    assert numbers == list(alone.numbers(start))
    assert [split[i].key for ids, _ in steps[start] for i in ids] == alone.keys(start)
    seeds = {alone.draw_seed(number) for number in range(50)}
    assert len(seeds) == 50
    assert seeds == {together[-1].draw_seed(number) for number in range(50)}


@settings(max_examples=10)
@given(window=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_a_window_is_left_before_the_next_one_begins(folder: Path, window: int, seed: int) -> None:
    split = shards(folder)
    names = split.shard_names.to_pylist()
    one = Loader(split, collate, 1, 1, seed, 0, reading=Reading(window))
    shown = [names[micro["id"].item()] for (micro,) in one.batches(0, COUNT)]
    last = {name: place for place, name in enumerate(shown)}
    opened = sorted(last, key=shown.index)
    for first in range(0, len(opened), window):
        own = opened[first : first + window]
        assert all(last[a] < shown.index(b) for a in own for b in opened[first + window :])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_small_cache_fetches_each_shard_once_an_epoch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "fetched"
    get = Store.get

    def counting(self: Store, shard: Stored, path: Path) -> None:
        with log.open("a") as file:  # from whichever process
            file.write("x")
        get(self, shard, path)

    monkeypatch.setattr(Store, "get", counting)
    plain = Loader(shards(folder), collate, 1, 1, 5, 0, reading=Reading(2))
    expected = [m["id"].item() for step in plain.batches(0, 2 * COUNT) for m in step]
    log.unlink(missing_ok=True)
    split = shards(folder, limit=4 * 2**20, name="small")
    one = Loader(split, collate, 1, 1, 5, 2, reading=Reading(2))
    assert [m["id"].item() for step in one.batches(0, 2 * COUNT) for m in step] == expected
    assert split.files.cache is not None
    kept = [path.stat().st_size for path in split.files.cache.folder.iterdir()]
    assert sum(kept) <= 4 * 2**20
    fetched = len(log.read_text())
    assert 16 <= fetched <= 24  # ten shards, two epochs; fetched late, one may be fetched twice


def test_what_the_cache_cannot_hold_is_said_before(folder: Path) -> None:
    said = r"two windows of 3 shards of toy, split train, need 0\.0\d+ GiB; .*cache_gb is 0\.0039"
    with pytest.raises(ShardError, match=said):
        Loader(shards(folder, limit=4 * 2**20), collate, 4, 4, 5, 0, reading=Reading(3))


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


def test_without_weights_batches_are_what_they_were(folder: Path) -> None:
    def ids(weights: dict[str, float] | None) -> list[int]:
        loader = Loader(shards(folder), collate, 1, 1, 5, 0, weights=weights)
        return [m["id"].item() for (m,) in loader.batches(0, loader.steps_per_epoch)]

    plain = [int(i) for i in np.random.default_rng([5, 0, 0]).permutation(COUNT)]
    assert ids(None) == ids({}) == plain
    assert sorted(ids({"a": 1.0})) == list(range(COUNT))


def test_a_weight_of_no_source(folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown source aa; sources: a, b"):
        Loader(shards(folder), collate, 1, 1, 1, 0, weights={"aa": 2.0})
    with pytest.raises(ValueError, match="split train, has 40 records, fewer than a batch of 41"):
        Loader(shards(folder), collate, 41, 41, 1, 0, weights={"b": 0.0})
