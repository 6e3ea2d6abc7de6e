"""The batches depend on seed, epoch and step alone."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from albef.data.record import Record
from albef.data.shards import Shards
from albef.loading.loader import Loader
from albef.loading.reading import Batch
from albef.loading.sampler import Pool
from albef.preprocessing.transforms import AugmentConfig, Transform
from tests.data import toy

RECORDS = 23


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("data") / "toy"
    toy.write(folder, [toy.record(i) for i in range(RECORDS)])
    return Shards(folder, "train")


TRANSFORM = Transform(AugmentConfig(flip=True, crop=(0.5, 1.0), randaugment=5), 16)


def collate(records: Sequence[Record], rng: np.random.Generator) -> Batch:
    images = [TRANSFORM(record.image, rng, record.key) for record in records]
    return {
        "image": torch.from_numpy(np.stack(images)),
        "id": torch.tensor([record.image_id for record in records]),
    }


def batches(loader: Loader, start: int, stop: int) -> list[Batch]:
    """The micro-batches of some steps, one after the other."""
    return [micro for step in loader.batches(start, stop) for micro in step]


def equal(a: Sequence[Batch], b: Sequence[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x["image"], y["image"]) and torch.equal(x["id"], y["id"])
        for x, y in zip(a, b, strict=True)
    )


def test_pooled_batches_have_less_padding_and_every_record_once(tmp_path: Path) -> None:
    lengths = [(7 * i) % 23 + 1 for i in range(RECORDS)]
    captions = [("short", " ".join(["word"] * length)) for length in lengths]
    toy.write(tmp_path / "toy", [toy.record(i, captions=c) for i, c in enumerate(captions)])
    split = Shards(tmp_path / "toy", "train")

    def ids(pooled: int) -> list[list[int]]:
        loader = Loader(split, collate, 4, 2, 5, 0, pool=Pool(pooled))
        return [b["id"].tolist() for b in batches(loader, 0, loader.steps_per_epoch)]

    def padded(micros: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in micro) for micro in micros)

    plain, pooled, whole = ids(0), ids(2), ids(5)
    for found in (pooled, whole):
        assert sorted(map(sorted, found)) != sorted(map(sorted, plain))
        assert np.array_equal(np.sort(found, None), np.sort(plain, None))  # of the same batches
    assert padded(whole) < padded(pooled) < padded(plain)
    spans = sorted(sorted(lengths[i] for i in micro) for micro in whole)
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(spans))


def test_batches_are_pooled_by_source(tmp_path: Path) -> None:
    toy.write(tmp_path / "toy", [toy.record(i, source="ab"[i % 3 == 0]) for i in range(24)])
    split = Shards(tmp_path / "toy", "train")
    loader = Loader(split, collate, 8, 4, 5, 0, pool=Pool(3, "source"))
    shown = [batch["id"].tolist() for batch in batches(loader, 0, 3)]
    assert sorted(i for micro in shown for i in micro) == list(range(24))
    of_a = [sum(i % 3 == 0 for i in micro) for micro in shown]
    assert sorted(of_a) == [0, 0, 0, 0, 4, 4]
    assert of_a[::2] == of_a[1::2]  # The micro-batches of a step are of one source.


def test_what_no_loader_can_share_out(shards: Shards) -> None:
    with pytest.raises(ValueError, match="2 processes cannot share 3 micro-batches"):
        Loader(shards, collate, 12, 4, 1, 0, (0, 2))
    with pytest.raises(ValueError, match="split train, has 23 records, fewer than a batch of 24"):
        Loader(shards, collate, 24, 24, 1, 0)
    assert not list(Loader(shards, collate, 4, 4, 9, 2).batches(5, 5))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(shards: Shards) -> None:
    def epochs(seed: int) -> list[Batch]:
        return batches(Loader(shards, collate, RECORDS, RECORDS, seed, 0), 0, 2)

    made = [*epochs(1), *epochs(2)]
    assert len({tuple(batch["id"].tolist()) for batch in made}) == 4
    sorted_images = [batch["image"][batch["id"].argsort()] for batch in made]
    for i, first in enumerate(sorted_images):
        assert not any(torch.equal(first, second) for second in sorted_images[i + 1 :])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
def test_workers_give_the_same_batches_and_leave_the_models_generator_alone(shards: Shards) -> None:
    here = batches(Loader(shards, collate, 4, 2, 9, 0), 2, 14)
    before = torch.get_rng_state()
    assert equal(here, batches(Loader(shards, collate, 4, 2, 9, 3), 2, 14))
    assert torch.equal(torch.get_rng_state(), before)


def test_skipping_ahead_reads_nothing(shards: Shards) -> None:
    calls = []

    def counting(records: Sequence[Record], rng: np.random.Generator) -> Batch:
        calls.append(len(records))
        return collate(records, rng)

    coming = Loader(shards, counting, 4, 4, 9, 0).batches(1000, 1002)
    assert not calls
    list(coming)
    assert calls == [4, 4]
