"""The cache of a machine: once a shard, within its bound, for several processes."""

import fcntl
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from albef.data.cache import ShardCache
from albef.data.store import Store, Stored

SIZE = 1000


@pytest.fixture
def store(tmp_path: Path) -> tuple[Store, list[Stored]]:
    store = Store(str(tmp_path / "store"))
    shards = []
    for number in range(6):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(bytes([number]) * SIZE)
        shards.append(store.put(path))
    return store, shards


def use(cache: ShardCache, store: Store, shard: Stored) -> None:
    os.close(cache.open(store, shard))


def kept(cache: ShardCache) -> set[str]:
    return {path.stem for path in cache.folder.iterdir()}


def test_the_least_recently_used_go(store: tuple[Store, list[Stored]], tmp_path: Path) -> None:
    where, shards = store
    cache = ShardCache(tmp_path / "cache", 3 * SIZE + 500)
    for number, shard in enumerate(shards[:3]):
        use(cache, where, shard)
        os.utime(cache.folder / f"{shard.digest}.tar", ns=(number, number))
    assert kept(cache) == {shard.digest for shard in shards[:3]}
    use(cache, where, shards[0])  # now the last one used
    gone = os.open(cache.folder / f"{shards[1].digest}.tar", os.O_RDONLY)
    use(cache, where, shards[3])
    assert kept(cache) == {shards[i].digest for i in (0, 2, 3)}
    assert cache.fetched == 4
    assert os.pread(gone, SIZE, 0) == bytes([1]) * SIZE  # readable where it is open
    os.close(gone)


def test_what_a_dead_process_left_goes(store: tuple[Store, list[Stored]], tmp_path: Path) -> None:
    where, shards = store
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    cache.folder.mkdir()
    dead, living = (cache.folder / f"{shard.digest}.part" for shard in shards[4:])
    dead.write_bytes(b"half")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        use(cache, where, shards[0])
        assert kept(cache) == {living.stem, shards[0].digest}
    use(cache, where, shards[5])  # a part of nobody is taken over
    assert kept(cache) == {shards[0].digest, shards[5].digest}


def _fetch(
    where: Store, shards: list[Stored], folder: Path, limit: int, ready: Any, fetched: Any
) -> None:
    cache = ShardCache(folder, limit)
    ready.wait()
    for number in range(60):
        shard = shards[number * 7 % len(shards)]
        file = cache.open(where, shard)
        assert len({*os.pread(file, SIZE + 1, 0)}) == 1
        assert os.fstat(file).st_size == SIZE
        os.close(file)
    fetched.put(cache.fetched)


@pytest.mark.parametrize("limit", [6 * SIZE, 2 * SIZE])
def test_processes_share_it(store: tuple[Store, list[Stored]], tmp_path: Path, limit: int) -> None:
    where, shards = store
    context = multiprocessing.get_context("fork")
    ready, fetched = context.Barrier(4), context.SimpleQueue()
    folder = tmp_path / "cache"
    args = (where, shards, folder, limit, ready, fetched)
    processes = [context.Process(target=_fetch, args=args) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    count = sum(fetched.get() for _ in processes)
    names = [path.name for path in folder.iterdir()]
    assert all(name.endswith(".tar") for name in names)
    if limit == 6 * SIZE:
        assert count == len(names) == 6  # each once, whoever asked first
    else:
        assert 6 <= count <= 240
        assert len(names) <= 2
