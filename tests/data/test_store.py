"""Shards in a bucket of a real S3 server, or a folder, and data sets that are read from there."""

import json
import shutil
from pathlib import Path

import pytest

from albef.config import read_yaml
from albef.data import cache as caches
from albef.data.cache import ShardCache
from albef.data.record import Record
from albef.data.shard_files import ShardError
from albef.data.shards import DamagedShardError, Shards, read_index
from albef.data.store import Store, Stored, read_manifest
from albef.io import file_digest, open_filesystem
from albef.layout import runtime
from tests.conftest import Bucket
from tests.data import toy

RECORDS = [toy.noisy(i) for i in range(20)]
ROOM = 2**30
GET = Store.get


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The address of a store, and the folder that it is in the end."""
    if request.param == "folder":
        return str(tmp_path / "store"), tmp_path / "store"
    bucket: Bucket = request.getfixturevalue("bucket")
    return f"{bucket.url}/{tmp_path.name}", bucket.folder / tmp_path.name


def read(folder: Path, cache: ShardCache) -> list[Record]:
    shards = Shards(folder, "train", cache=cache)
    found = list(shards)
    shards.close()
    return found


def test_a_dataset_in_a_store_is_the_one_in_its_folder(
    store: tuple[str, Path], tmp_path: Path
) -> None:
    url, objects = store
    plain = toy.write(tmp_path / "a" / "toy", RECORDS)
    stored = toy.write(tmp_path / "b" / "toy", RECORDS, store=url)
    assert stored == plain
    there = {path.name for path in (tmp_path / "b" / "toy").iterdir()}
    assert there == {"dataset.json", "index.parquet", "shards.json"}
    manifest = read_manifest(tmp_path / "b" / "toy")
    assert manifest is not None
    assert manifest.store == url
    tars = sorted((tmp_path / "a" / "toy" / "shards").iterdir())
    assert [*manifest.shards] == [tar.name for tar in tars]
    for tar, shard in zip(tars, manifest.shards.values(), strict=True):
        assert (shard.digest, shard.size) == (file_digest(tar), tar.stat().st_size)
        assert (objects / f"{shard.digest}.tar").read_bytes() == tar.read_bytes()
    assert {path.name for path in objects.iterdir()} == {
        f"{shard.digest}.tar" for shard in manifest.shards.values()
    }
    cache = ShardCache(tmp_path / "cache", ROOM)
    assert read(tmp_path / "b" / "toy", cache) == RECORDS
    assert cache.fetched == len(tars)
    assert read(tmp_path / "b" / "toy", cache) == RECORDS
    assert cache.fetched == len(tars)  # what is here is not fetched again


def test_what_is_there_is_not_sent_again_and_half_a_shard_is(
    store: tuple[str, Path], tmp_path: Path
) -> None:
    url, objects = store
    path = tmp_path / "a.tar"
    path.write_bytes(b"a shard")
    shard = Store(url).put(path)
    (there,) = objects.iterdir()
    there.write_bytes(b"another")  # of the same size
    assert Store(url).put(path) == shard
    assert there.read_bytes() == b"another"
    there.write_bytes(b"a sha")
    Store(url).put(path)
    assert there.read_bytes() == b"a shard"


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*\.tar.* run the command again"):
        toy.write(tmp_path / "toy", RECORDS[:1], store=str(tmp_path / "file" / "inside"))
    with pytest.raises(ValueError, match="store: cannot open nothing://a"):
        toy.write(tmp_path / "toy", RECORDS[:1], store="nothing://a")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A data set whose shards are in another folder."""
    toy.write(tmp_path / "toy", RECORDS, store=str(tmp_path / "store"))
    return tmp_path / "toy"


def test_a_swapped_or_missing_object_is_named(store: tuple[str, Path], tmp_path: Path) -> None:
    url, objects = store
    folder = tmp_path / "toy"
    toy.write(folder, RECORDS, store=url)
    manifest = read_manifest(folder)
    assert manifest is not None
    first, second, third, _ = (objects / f"{one.digest}.tar" for one in manifest.shards.values())
    shutil.copy(second, first)
    files, path = open_filesystem(f"{url}/{third.name}", "store")
    files.rm_file(path)
    shards = Shards(folder, "train", cache=ShardCache(tmp_path / "cache", ROOM))
    said = rf"{first.name} is damaged: .*delete it there .* ingest@toy`"
    with pytest.raises(DamagedShardError, match=said) as caught:
        shards[0]
    assert (caught.value.shard, caught.value.key) == ("toy-00000.tar", "")
    assert shards[7] == RECORDS[7]
    with pytest.raises(DamagedShardError, match=rf"{third.name} is missing: delete it there"):
        shards[13]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [second.name]


def failing(patch: pytest.MonkeyPatch, error: Exception, but: int = 0) -> list[Path]:
    """Have a store fail at each attempt but one; where shards were to go, attempt by attempt."""
    get, asked = GET, []

    def fetch(self: Store, shard: Stored, path: Path) -> None:
        asked.append(path)
        if len(asked) != but:
            raise error
        get(self, shard, path)

    patch.setattr(Store, "get", fetch)
    return asked


def test_a_store_out_of_reach_is_tried_again_and_is_not_damage(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_WAITS_S", (0.0, 0.0))
    asked = failing(monkeypatch, ConnectionError("no route"), but=3)
    shards = Shards(stored, "train", cache=ShardCache(tmp_path / "cache", ROOM))
    assert shards[0] == RECORDS[0]
    assert len(asked) == 3
    with pytest.raises(OSError, match=r"cannot fetch .*cache: no route"):
        shards[7]
    assert len(asked) == 6
    asked = failing(monkeypatch, PermissionError("Forbidden"))
    with pytest.raises(OSError, match=r"permission is missing: Forbidden"):
        shards[7]
    assert len(asked) == 1


def test_a_damaged_copy_on_this_machine_is_fetched_again(stored: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", ROOM)
    shards = Shards(stored, "train", cache=cache)
    assert shards[3] == RECORDS[3]
    (copy,) = cache.folder.iterdir()
    content = bytearray(copy.read_bytes())
    content[read_index(stored)["offset"][3].as_py() + 2000] ^= 1
    copy.write_bytes(content)
    assert shards[3] == RECORDS[3]
    assert cache.fetched == 2
    copy.write_bytes(b"short")
    shards.close()
    assert shards[4] == RECORDS[4]
    assert cache.fetched == 3


def test_the_cache_is_that_of_the_values(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = read_yaml(Path(__file__).parents[2] / "params.yaml")["runtime"]
    monkeypatch.setenv("ALBEF_RUNTIME__CACHE_GB", "0.5")
    cache = ShardCache.of(runtime({**values, "scratch": str(tmp_path / "scratch")}))
    assert (cache.folder, cache.limit) == (tmp_path / "scratch/albef/shards", 2**29)
    monkeypatch.setattr(ShardCache, "default", cache)
    assert list(Shards(stored, "train")) == RECORDS
    assert len(list(cache.folder.glob("*.tar"))) == 4


def test_a_manifest_names_no_other_files(stored: Path) -> None:
    path = stored / "shards.json"
    shards = {"toy-00000.tar": {"digest": "../" * 20, "size": 1}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shards": shards}))
    with pytest.raises(ShardError, match=rf"{path}: shards.*digest: string should match"):
        Shards(stored, "train")
