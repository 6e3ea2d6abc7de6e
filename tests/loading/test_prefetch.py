"""Shards are fetched before they are asked for, no further than is allowed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from albef.data.cache import ShardCache
from albef.data.shards import Shards
from albef.data.store import Store, Stored, read_manifest
from albef.loading.prefetch import Prefetcher
from tests.data import toy


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    toy.write(tmp_path / "toy", map(toy.noisy, range(24)), store=str(tmp_path / "store"))
    return Shards(tmp_path / "toy", "train", cache=ShardCache(tmp_path / "cache", 2**30))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names(shards: Shards) -> list[str]:
    return [str(name) for name in shards.shard_names.unique().to_pylist()]


def test_no_further_than_allowed(shards: Shards) -> None:
    cache, every = shards.files.cache, names(shards)
    assert cache is not None
    asked = []

    def batches() -> Iterator[list[str]]:
        for name in every:
            asked.append(name)
            yield [name]

    ahead = Prefetcher(shards.files, batches(), 2)
    until(lambda: cache.fetched == 2 and len(asked) == 3)
    ahead.advance()
    until(lambda: cache.fetched == 3 and len(asked) == 4)
    ahead.stop()
    assert len(every) == 4
    assert shards[0].key == "toy-0000"
    assert cache.fetched == 3  # it was there


def test_what_cannot_be_fetched_is_left_to_its_reader(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(shards.folder)
    assert manifest is not None
    first, *rest = names(shards)
    Path(manifest.store, f"{manifest.shards[first].digest}.tar").unlink()
    get, asked = Store.get, []

    def counting(self: Store, shard: Stored, path: Path) -> None:
        asked.append(shard.digest)
        get(self, shard, path)

    monkeypatch.setattr(Store, "get", counting)
    Prefetcher(shards.files, [[first], [first, rest[0]], [first, *rest]], 9)
    cache = shards.files.cache
    assert cache is not None
    until(lambda: cache.fetched == 3)
    assert asked.count(manifest.shards[first].digest) == 1
