"""What the stages that train share: device, data that passed validation, scratch, curves."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from albef.data.shards import Shards, describe
from albef.distributed import world
from albef.io import file_digest, write_atomic
from albef.loading.loader import Loader
from albef.loading.pipeline import Reading
from albef.models.kernels import compile_blocks, evaluating, recompute
from albef.models.weights import CONFIG, WEIGHTS, Checkpoint, save_checkpoint
from albef.preprocessing.transforms import Train
from albef.tasks.task import RunConfig, Table, Task, TrainingConfig
from albef.training.loop import LOG, Setup, Trainer
from albef.training.mirror import Mirror
from albef.training.state import kept
from albef.training.tracking import progress
from pipelines.stage import Stage, verified_digest

TRIAL = "trial.json"
"""In the scratch folder of a training that a trial of a search has finished: which one, and how."""
CLEAR = 1.1
"""Times chance that a metric has to reach to be above it."""
log = logging.getLogger("albef")


def circumstances(stage: Stage, device: torch.device) -> dict[str, Any]:
    """What last digits of a training depend on beside its values, data and seed."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else device.type,
        "threads": torch.get_num_threads(),
        "processes": world().size,
        "recompute": stage.runtime.recompute,
        "compile": stage.runtime.compile,
        "compress": stage.runtime.compress,
        "deterministic": stage.runtime.deterministic,
        "torch": torch.__version__,
    }


def provenance_of(
    stage: Stage, config: TrainingConfig, dataset: str, **parents: Any
) -> tuple[dict[str, Any], str]:
    """What a training comes from, and the fingerprint of its scratch folder."""
    data = verified_digest(stage, dataset)
    provenance = {"dataset": dataset, "data": data, "seed": stage.seed, **parents}
    return provenance, fingerprint({"values": config.model_dump()} | provenance)


def parents_of(config: RunConfig, init: Checkpoint) -> dict[str, str]:
    """What a run's training starts from, for its provenance."""
    return {"parent": config.init, "parent_weights": init.digest}


def origin_of(stage: Stage, dataset: str, init: Checkpoint | None = None) -> dict[str, Any]:
    """What a checkpoint tells beside its provenance: whoever has nothing but the checkpoint, or its
    export, reads in it where it comes from."""
    described = describe(stage.layout.data(dataset))
    keys = ("splits", "captions", "sources", "licences", "shards_of", "curated")
    origin: dict[str, Any] = {
        "code": stage.code,
        "described": {key: described[key] for key in keys if key in described},
    }
    if init is not None:
        origin["choice"] = file_digest(stage.layout.search(stage.key) / "choice.json")
        origin["parent_provenance"] = init.config.get("provenance", {})
    return origin


class EndedEarly(Exception):
    """A training was ended after an epoch, as ``on_epoch`` asked."""


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of plain values: other parameters or data are another scratch folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fit(
    stage: Stage,
    task: Task,
    device: torch.device,
    folder: Path,
    label: str = "",
    on_epoch: Callable[[int, dict[str, float]], bool] | None = None,
) -> dict[str, Any]:
    """Train on a data set's train split, validating on its val split after each epoch.

    Args:
        stage: the running stage.
        task: trained in place, as its values say, in which ranges are chosen.
        device: where to train.
        folder: scratch of this training.
        label: shown with the progress; the stage's address where it is left out.
        on_epoch: given the epoch, from 1, and its validation metrics; true ends the training. Of
            several processes the first one alone is asked.

    Returns:
        Facts for the run record.

    Raises:
        EndedEarly: ``on_epoch`` said so.
    """
    label = label or stage.address
    config: TrainingConfig = task.config
    dataset: str = task.config.dataset
    data = stage.layout.data(dataset)
    if not config.epochs:  # a run that takes its start as it is needs no train split
        task.prepare(Shards(data, "train") if "train" in describe(data)["splits"] else None)
        task.to(device).eval()
        return {"steps": 0}
    processes = world()
    shards = Shards(data, "train", mapped=folder if processes.size > 1 else None)
    task.prepare(shards)
    recompute(task, stage.runtime.recompute)
    if stage.runtime.compile:
        compile_blocks(task)
    loader = _loader(stage, task, shards)
    val = Shards(data, "val")
    task.workers = stage.runtime.workers

    def validate(epoch: int) -> dict[str, float]:
        with evaluating(config.precision, device):
            table = task.predict(val, config.micro_batch_size)
        judge = partial(_judge, task, table, f"{label}: epoch {epoch}")
        metrics = processes.broadcast(judge)
        ended = processes.broadcast(lambda: bool(on_epoch and on_epoch(epoch, metrics)))
        stage.tally()
        if ended:
            raise EndedEarly
        return metrics

    setup = Setup(folder, device, stage.runtime, mirror_of(stage, folder), stage.code)
    try:
        facts = Trainer(task, loader, setup, validate, progress(label)).train()
        for index in folder.glob("*.arrow") if processes.first else ():
            index.unlink()  # others may map it still
        return {**facts, "damaged": loader.damage.counts()}
    finally:
        stage.tally()


def _loader(stage: Stage, task: Task, shards: Shards) -> Loader:
    config: TrainingConfig = task.config
    dataset: str = task.config.dataset
    damaged_records = stage.runtime.max_damaged_records.get(dataset, 0.0)
    damaged_shards = stage.runtime.max_damaged_shards.get(dataset, 0.0)
    processes = world()
    return Loader(
        shards,
        task.collate(Train(config.augment, task.image_size)),
        config.global_batch_size,
        config.micro_batch_size,
        stage.seed,
        stage.runtime.workers,
        (processes.rank, processes.size),
        config.pooled_batches,
        config.source_weights,
        Reading(config.window, damaged_records, damaged_shards),
    )


def _judge(task: Task, table: Table, when: str) -> dict[str, float]:
    """Score a validation; one that is no better than guessing is warned of."""
    metrics, chance = task.score(table), task.chance(table)
    log.info("%s, %s %.2f", when, task.primary, metrics[task.primary])
    if metrics[task.primary] <= CLEAR * chance.get(task.primary, -math.inf):
        log.warning(
            "%s: %s is no better than guessing (%.2f): it has learned nothing yet; look at the "
            "data, the learning rate and the start",
            *(when, task.primary, chance[task.primary]),
        )
    return metrics


def mirror_of(stage: Stage, folder: Path) -> Mirror | None:
    """Where copies of what is in a scratch folder go; only the first process has it."""
    if not stage.runtime.mirror or not stage.first:
        return None
    return Mirror(stage.runtime.mirror, folder.relative_to(stage.runtime.scratch_root).as_posix())


def discard(stage: Stage, folder: Path) -> None:
    """Remove the scratch folder of what is finished, and its mirror."""
    if mirror := mirror_of(stage, folder):
        mirror.clear()
    shutil.rmtree(folder, ignore_errors=True)  # another machine of the same search may do it too


def publish(
    stage: Stage,
    folder: Path,
    name: str,
    task: Task,
    provenance: Mapping[str, Any],
    kind: str,
    init: Checkpoint | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Make the products of a finished training, by its first process, and remove its scratch.

    Args:
        stage: the running stage.
        folder: scratch of the training.
        name: of the checkpoint, whose kept epochs go to ``epochs/N`` in its folder.
        task: as trained.
        provenance: of the training.
        kind: of the checkpoint.
        init: the checkpoint that it started from, with the values that the search chose.
        facts: what else the kind has to know to be restored.
    """
    if not stage.first:
        return
    save = partial(
        save_checkpoint,
        kind=kind,
        model=task.sizes,
        tokenizer=task.tokenizer,
        values=task.config.model_dump(),
        facts=facts,
    )
    provenance = {**provenance, **origin_of(stage, provenance["dataset"], init)}
    model, curves = stage.layout.model(name), stage.layout.curves(name)
    tensors = task.state_dict()
    if best := stage.record.get("best_epoch"):
        (path,) = kept(folder, [best]).values()
        tensors, provenance["epoch"] = load_file(path), best
    save(model, tensors=tensors, provenance=provenance)
    stage.made(model / WEIGHTS, model / CONFIG)
    for epoch, path in kept(folder, task.config.keep_epochs).items():
        epochs = model / "epochs" / str(epoch)
        save(epochs, tensors=load_file(path), provenance={**provenance, "epoch": epoch})
    shutil.rmtree(curves, ignore_errors=True)
    curves.mkdir(parents=True)
    if (folder / "curves").is_dir():
        last = shutil.ignore_patterns("metrics.json")  # the last points, of which DVC draws nothing
        shutil.copytree(folder / "curves", curves, dirs_exist_ok=True, ignore=last)
    if (folder / LOG).exists():
        write_atomic(stage.layout.log(name), (folder / LOG).read_bytes())
    discard(stage, folder)
