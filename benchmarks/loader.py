"""Decoding and augmenting photographs in a data worker, against a folder read with torchvision.

``python -m benchmarks.loader`` prints a table in Markdown. Both ways decode the same JPEGs of
640 x 480 pixels, crop half to all of the area at random, resize to 256 pixels and batch in one
worker process, and end with normalised batches in this one; the plain one reads files, normalises
in the worker and stacks by torch's default. Both processes are kept to one core where
the system can do so. Then a built-in pre-training reads those JPEGs by one worker, and tells which
share of its time it waited for them.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from albef.config import read_yaml, validate
from albef.data.record import Record
from albef.data.shards import Shards
from albef.ingest import shard_writer
from albef.layout import Runtime
from albef.loading.loader import Loader
from albef.loading.reading import Batch, to_device
from albef.preprocessing.transforms import MEAN, STD, AugmentConfig, Transform
from albef.tasks.pretraining import Config, Task
from albef.training.loop import Setup, Trainer
from benchmarks.pictures import jpeg, photo
from benchmarks.timing import alternate, machine, ratio
from tests.original import vocabulary

SIDE, BATCH = 256, 32
PASSES = 16
"""Over the pictures in a round, by one worker: its start is not what is timed."""
CROP = (0.5, 1.0)
EPOCHS = 10
"""Of the training whose waiting is measured."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.loader")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one warm-up")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if pinned := hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _write(folder, options.images)
        ways: dict[str, Callable[[], object]] = {
            "folder, PIL, torchvision": lambda: _plain(folder / "files"),
            "ours": lambda: _ours(folder / "data"),
        }
        times = alternate(ways, options.rounds)
        if pinned:
            os.sched_setaffinity(0, cores)
        waited = _waiting(folder / "data", folder)
    print(f"{machine()}; one worker{' on one core' * pinned}, medians of {options.rounds}\n")
    print(f"{options.images} JPEGs of 640 x 480 pixels, {size / 1024:.0f} KiB in the mean\n")
    print("| | images/s |\n|---|---|")
    for way, own in times.items():
        print(f"| {way} | {PASSES * options.images / statistics.median(own):.0f} |")
    plain, ours = times.values()
    print(f"\nplain / ours in time, median over rounds (least to most): {ratio(plain, ours)}")
    print(
        f"\nA pre-training at the built-in size, {waited['samples_per_second']} pairs/s "
        f"({waited['precision']}), waits {waited['waiting_percent']} % of its time for data"
    )


def _write(folder: Path, count: int) -> float:
    """Pictures with the noise of a camera, as files and as shards; their mean size in bytes."""
    (folder / "files").mkdir()
    rng = np.random.default_rng(0)
    records, sizes = [], []
    for number in range(count):
        image = jpeg(Image.fromarray(photo(rng)), 85)
        (folder / "files" / f"{number:05d}.jpg").write_bytes(image)
        sizes.append(len(image))
        records.append(Record(f"{number:05d}", image, ("a caption",), number, "train", "noise"))
    shard_writer.write(folder / "data", "data", records, shard_mb=64, licences=[], sources=[])
    return statistics.mean(sizes)


class _Files(Dataset[torch.Tensor]):
    """Files of a folder, the way torchvision's documentation has it."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())
        bicubic = transforms.InterpolationMode.BICUBIC
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIDE, scale=CROP, interpolation=bicubic),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as picture:
            transformed: torch.Tensor = self._transform(picture.convert("RGB"))
        return transformed


def _plain(folder: Path) -> None:
    loader = DataLoader(
        _Files(folder),
        BATCH,
        shuffle=True,
        num_workers=1,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    for _ in range(PASSES):
        for _ in loader:
            pass


def _collate(records: Sequence[Record], rng: np.random.Generator) -> Batch:
    transform = Transform(AugmentConfig(flip=False, crop=CROP, randaugment=0), SIDE)
    images = [transform(record.image, rng, record.key) for record in records]
    return {"image": torch.from_numpy(np.stack(images))}


def _ours(folder: Path) -> None:
    loader = Loader(Shards(folder, "train"), _collate, BATCH, BATCH, 0, 1)
    for (micro,) in loader.batches(0, PASSES * loader.steps_per_epoch):
        to_device(micro, torch.device("cpu"))


def _waiting(data: Path, scratch: Path) -> Mapping[str, object]:
    """What the train loop records of the built-in pre-training on these pictures."""
    values = read_yaml(Path("params.yaml"))
    torch.set_num_threads(values["runtime"]["threads"] or os.cpu_count() or 1)
    section = values["pretrain"] | {"epochs": EPOCHS, "masked_groups": []}
    config = validate(Config, section, where="params.yaml", key="pretrain")
    task = Task(config, vocabulary(config.tokenizer.vocab_size))
    transform = Transform(AugmentConfig(flip=False, crop=CROP, randaugment=0), task.image_size)
    size = config.global_batch_size
    loader = Loader(Shards(data, "train"), task.collate(transform), size, size, 0, 1)
    setup = Setup(scratch / "training", torch.device("cpu"), Runtime())
    return Trainer(task, loader, setup, lambda epoch: {}, lambda step, total, means: None).train()


if __name__ == "__main__":
    main()
