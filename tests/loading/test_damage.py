"""Damage in training: counted, replaced by a stated rule, and stopped beyond a set share."""

import contextlib
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.image_decoding import decode
from albef.data.record import Record
from albef.data.shards import DamagedShardError, ShardError, Shards, read_index
from albef.loading.loader import Loader
from albef.loading.pipeline import Reading
from albef.loading.reading import Batch
from tests.data import toy

COUNT = 24


def write(folder: Path) -> Path:
    """24 records in four shards."""
    toy.write(folder, [toy.noisy(i) for i in range(COUNT)])
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "toy")


def shard_of(folder: Path, record: int) -> tuple[Path, int]:
    """The shard of a record, and where its picture begins."""
    row = read_index(folder).slice(record, 1).to_pylist()[0]
    return folder / "shards" / row["shard"], row["offset"]


def flip(folder: Path, record: int) -> None:
    path, offset = shard_of(folder, record)
    toy.flip(path, offset + 1000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "toy")


@settings(max_examples=25)
@given(at=st.integers(0, 4000), bits=st.integers(1, 255), cut=st.booleans())
def test_no_damage_of_a_shard_is_silent(whole: Path, at: int, bits: int, cut: bool) -> None:
    path = whole / "shards" / "toy-00000.tar"
    before = path.read_bytes()
    start = shard_of(whole, 1)[1] - 1000  # around the header of the second picture
    content = bytearray(before)
    content[start + at] ^= bits
    path.write_bytes(content[: start + at] if cut else content)
    try:
        shards = Shards(whole, "train")
        for i in range(4):
            with contextlib.suppress(DamagedShardError):
                assert shards[i] == toy.noisy(i)
    finally:
        path.write_bytes(before)


def collate(records: Sequence[Record], rng: np.random.Generator) -> Batch:
    for record in records:
        decode(record.image, record.key)
    return {"id": torch.tensor([record.image_id for record in records])}


taking = functools.partial(Reading, None)
"""With a share of damaged records, and one of damaged shards."""


def ids(loader: Loader, start: int = 0, epochs: int = 2) -> list[list[int]]:
    stop = epochs * loader.steps_per_epoch
    return [micro["id"].tolist() for step in loader.batches(start, stop) for micro in step]


def loader(data: Path, reading: Reading, workers: int = 0, **more: object) -> Loader:
    return Loader(Shards(data, "train"), collate, 4, 4, 7, workers, reading=reading, **more)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_next_micro_batch_lends_its_record(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    plain = ids(loader(data, taking(0)))
    flip(data, 3)
    alone = loader(data, taking(0.05))
    found = ids(alone)
    flat, order = np.array(found), np.array(plain)
    assert flat.shape == order.shape
    for epoch in (0, 6):  # of six micro-batches each
        (place,) = np.flatnonzero(order[epoch : epoch + 6].ravel() == 3)
        expected = order[epoch : epoch + 6].ravel()
        expected[place] = expected[(place + 4) % 24]
        assert flat[epoch : epoch + 6].ravel().tolist() == expected.tolist()
    assert alone.damage.counts() == {"records": 1, "shards": 0, "replaced": 2}
    (told,) = (record.getMessage() for record in caplog.records)  # once, not in each epoch
    assert told.startswith(str(data / "shards" / "toy-00000.tar"))
    assert "toy-0003" in told
    several = loader(data, taking(0.05), workers=2)
    assert ids(several) == found
    assert several.damage.counts() == alone.damage.counts()
    assert ids(loader(data, taking(0.05)), start=5) == found[5:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_too_many_damaged_records_stop_the_training(data: Path) -> None:
    flip(data, 3)
    message = r"damaged at toy-0003; 1 of the 24 records .* runtime\.max_damaged_records\.toy \(0\)"
    with pytest.raises(ShardError, match=message) as caught:
        ids(loader(data, taking(0), 2))
    assert "\n" not in str(caught.value), "no trace of the worker"
    flip(data, 17)
    with pytest.raises(ShardError, match=r"2 of the 24 .*_records\.toy \(0\.05\)"):
        ids(loader(data, taking(0.05), 2))
    assert len(ids(loader(data, taking(0.1), 2))) == 12


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_shard_that_is_not_there_is_named_once(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path, _ = shard_of(data, 0)
    own = read_index(data)["shard"].to_pylist().count(path.name)
    path.unlink()
    with pytest.raises(ShardError, match=r"1 of the 4 .*_shards\.toy \(0\)"):
        ids(loader(data, taking(1.0), 2))
    one = loader(data, taking(0, 0.25), 2)
    found = ids(one)
    assert [len(micro) for micro in found] == [4] * 12
    assert min(i for micro in found for i in micro) == own  # the first ones are in that shard
    assert one.damage.counts() == {"records": 0, "shards": 1, "replaced": 2 * own}
    (told,) = (record.getMessage() for record in caplog.records)
    assert path.name in told


def test_a_record_that_cannot_be_decoded_is_damaged_too(tmp_path: Path) -> None:
    records = [toy.noisy(i) for i in range(COUNT)]
    records[5] = toy.record(5, image=records[5].image[:2000])
    toy.write(tmp_path / "toy", records)
    one = loader(tmp_path / "toy", taking(0.05))
    found = ids(one)
    assert all(5 not in micro for micro in found)
    assert {len(micro) for micro in found} == {4}
    assert one.damage.counts() == {"records": 1, "shards": 0, "replaced": 2}


def test_nothing_to_take_instead(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy", [toy.record(i) for i in range(4)])
    (tmp_path / "toy" / "shards" / "toy-00000.tar").unlink()
    with pytest.raises(DamagedShardError, match=r"toy-00000\.tar is missing"):
        ids(loader(tmp_path / "toy", taking(1.0, 1.0)))
