"""A tiny training, in this process or in several."""

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from albef.config import validate
from albef.data.shards import Shards
from albef.distributed import ProcessLostError, joined, world
from albef.layout import Runtime
from albef.loading.loader import Loader
from albef.loading.reading import to_device
from albef.models.kernels import compile_blocks
from albef.preprocessing.transforms import AugmentConfig, Transform
from albef.tasks import pretraining
from albef.tasks.task import LoraConfig, Task
from albef.trackers import Trackers
from albef.training.loop import Setup, Trainer
from albef.training.mirror import Mirror
from albef.training.tracking import Progress
from tests.conftest import tiny_task
from tests.original import vocabulary
from tests.tasks.test_pretraining_parity import config

DEVICE = torch.device(os.environ.get("ALBEF_TEST_DEVICE", "cpu"))
"""Device of the trainings, which `make gpu` sets."""
if DEVICE.type != "cpu":
    torch.use_deterministic_algorithms(True)
AUGMENT = {"flip": True, "crop": [0.5, 1.0], "randaugment": 5}
SIZES = {
    "epochs": 2, "keep_epochs": (1,), "global_batch_size": 8, "micro_batch_size": 2, "lr": 1e-3,
    "warmup_steps": 2, "clip_norm": 1.0,
}  # fmt: skip
KINDS = ("retrieval", "pretraining", "without_itc", "sigmoid_lora")


STOPPED = {False: "retrieval", True: "pretraining"}
"""Kinds that are also stopped and resumed; if true, their weights are split over the processes."""


def task_of(kind: str) -> Task:
    """A task; pre-training with dropout, and where it is without ITC, projections do not learn."""
    torch.manual_seed(3)
    if kind in ("retrieval", "sigmoid_lora"):
        contrast, lora = ("softmax", None) if kind == "retrieval" else ("sigmoid", LoraConfig())
        task: Any = tiny_task(contrast=contrast)
        task.config = task.config.model_copy(update=SIZES | {"lora": lora})
        return task
    changes = {"itc": kind == "pretraining", "queue_size": 12, "wpa": 1.0}
    values = config(0.4).model_copy(update=SIZES | changes)
    text = values.model.text.model_copy(update={"dropout": 0.1})
    model = values.model.model_copy(update={"text": text})
    return pretraining.Task(values.model_copy(update={"model": model}), vocabulary())


def loader_of(task: Any, data: Path, workers: int = 0) -> Loader:
    """Its batches, this process' share of them."""
    augment = validate(AugmentConfig, AUGMENT, where="tests")
    return Loader(
        Shards(data, "train"),
        task.collate(Transform(augment, task.image_size)),
        task.config.global_batch_size,
        task.config.micro_batch_size,
        1,
        workers,
        (world().rank, world().size),
    )


def gradients(kind: str, data: Path, compress: bool = False) -> dict[str, torch.Tensor | None]:
    """Of the first step."""
    task: Any = task_of(kind).train()
    loader = loader_of(task, data)
    model = world().parallel(task, compress)
    micros = next(loader.batches(0, 1))
    for number, micro in zip(loader.numbers(0), micros, strict=True):
        torch.manual_seed(loader.draw_seed(number))
        (model(to_device(micro, torch.device("cpu")), 0.5)["loss"] / len(micros)).backward()
    return {name: p.grad for name, p in task.named_parameters()}


def train_toy(
    task: Any,
    data: Path,
    scratch: Path,
    progress: Progress = lambda step, total, means: None,
    *,
    workers: int = 0,
    every: int = 5,
    every_s: float = math.inf,
    mirror: Mirror | None = None,
    code: str = "",
    validate: Callable[[int], dict[str, float]] = lambda epoch: {"r_mean": float(epoch)},
    facts: dict[str, Any] | None = None,
    trackers: Trackers | None = None,
    shard: bool = False,
) -> dict[str, torch.Tensor]:
    """Train to the end, unless ``progress`` raises; the weights. ``facts`` are added to."""
    runtime = Runtime(checkpoint_every=every, checkpoint_every_s=every_s, shard=shard)
    setup = Setup(scratch, DEVICE, runtime, mirror, code, trackers)
    result = Trainer(task, loader_of(task, data, workers), setup, validate, progress).train()
    if facts is not None:
        facts |= result
    state: dict[str, torch.Tensor] = task.state_dict()
    return state


def run(
    kind: str,
    data: Path,
    scratch: Path,
    stop: int | None = None,
    shard: bool = False,
    compiled: bool = False,
) -> dict[str, torch.Tensor]:
    """Train to the end, or leave after ``stop`` steps as a kill would."""
    task: Any = task_of(kind)
    if compiled:  # without kernels, which take long to make
        compile_blocks(task, backend="eager")

    def progress(step: int, total: int, means: Mapping[str, float]) -> None:
        assert shard is any(isinstance(p, DTensor) for p in task.parameters())
        if step == stop:
            raise KeyboardInterrupt

    def validate(epoch: int) -> dict[str, float]:
        with torch.no_grad():
            for _ in range(1 + world().rank):  # processes may evaluate on different numbers
                task.model.encode_image(torch.zeros(2, 3, *[task.image_size] * 2))
        return {"r_mean": float(epoch)}

    return train_toy(task, data, scratch, progress, validate=validate, shard=shard)


class Failed(Exception):
    """What one process meets alone."""


PHASES = {"backward": 1, "validate": 0}
"""Where a process may fail in a training, and which one does."""
FAILED, LOST = 5, 6
"""Exit codes of that one, and of those that waited for it in vain."""


def fail(phase: str, data: Path, out: Path) -> None:
    """Train until one process fails in a phase of a later step; the others have to notice."""
    torch.distributed.destroy_process_group = lambda: os._exit(
        99
    )  # NCCL's would wait for the other
    task: Any = task_of("retrieval")
    calls = itertools.count(1)

    def call(*_: object) -> None:
        if world().rank == PHASES[phase] and next(calls) == 2:
            raise Failed(phase)

    if phase == "backward":
        task.temperature.register_hook(call)

    def validate(epoch: int) -> dict[str, float]:
        if phase == "validate":
            world().broadcast(call)
        return {"r_mean": float(epoch)}

    try:
        with joined(torch.device("cpu")):
            train_toy(task, data, out, validate=validate)
    except Failed:
        os._exit(FAILED)
    except ProcessLostError:
        os._exit(LOST)


def train_split(folder: Path, out: Path) -> dict[str, Any]:
    """Weights that are split, with compiled blocks and without."""
    found = {}
    for name, compiled in (("split", False), ("split, compiled", True)):
        found[name] = run(STOPPED[True], folder, out / name, shard=True, compiled=compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 6
    assert not torch._dynamo.utils.counters["graph_break"]
    return found


def train_each(folder: Path, out: Path) -> dict[str, Any]:
    """Gradients of each kind, whole trainings, and trainings that stop and go on."""
    found: dict[str, Any] = {}
    for name in KINDS:
        found[name] = {
            "gradients": gradients(name, folder),
            "compressed": gradients(name, folder, compress=True),
        }
    found["split"] = {"state": run(STOPPED[True], folder, out / "split", shard=True)}
    for shard, name in STOPPED.items():
        found[name]["state"] = run(name, folder, out / name)
        with contextlib.suppress(KeyboardInterrupt):  # several processes save at step 10
            run(name, folder, out / f"cut {shard}", stop=11, shard=shard)
        assert not world().first or list((out / f"cut {shard}").glob("state-*10-*"))
        found[f"cut {shard}"] = run(name, folder, out / f"cut {shard}", shard=shard)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, out = map(Path, sys.argv[1:3])
    other = os.fork()  # what takes seconds to import is imported once
    os.environ["RANK"] = "0" if other else "1"
    with joined(torch.device("cpu")):
        found = {"each": train_each, "split": train_split}[sys.argv[3]](folder, out)
        if world().first:
            torch.save(found, out / "found.pt")
    if other:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
