"""Shared code of the stages that train: device, validated data, scratch, curves."""

import hashlib
import json
import logging
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
from albef.loading.frozen import ImageCache
from albef.loading.loader import Loader
from albef.loading.pipeline import Reading
from albef.loading.reading import ImageTransform, Part
from albef.loading.sampler import Pool
from albef.models.kernels import compile_blocks, evaluating, recompute
from albef.models.weights import CONFIG, WEIGHTS, Checkpoint, save_checkpoint
from albef.preprocessing.transforms import Transform
from albef.tasks.task import RunTask, Table, Task, TrainingConfig
from albef.trackers import IDS, Trackers, training
from albef.training.loop import LOG, Setup, Trainer
from albef.training.lora import merged
from albef.training.mirror import Mirror
from albef.training.state import kept
from albef.training.tracking import progress
from pipelines.stage import Stage, read_json, verified_digest, write_json

CHANCE_MARGIN = 1.1
"""Factor over chance that a metric must exceed to count as better than chance."""
log = logging.getLogger("albef")


def provenance_of(
    stage: Stage, config: TrainingConfig, **parents: Any
) -> tuple[dict[str, Any], str]:
    """Return the provenance of a training, and the fingerprint of its scratch folder."""
    data = verified_digest(stage, config.dataset)
    provenance = {"dataset": config.dataset, "data": data, "seed": stage.seed, **parents}
    return provenance, fingerprint({"values": config.model_dump()} | provenance)


def origin_of(stage: Stage, dataset: str, init: Checkpoint | None = None) -> dict[str, Any]:
    """Return the origin of a checkpoint, which it records in addition to its provenance."""
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


class EndedEarlyError(Exception):
    """A training that ended after an epoch because ``on_epoch`` returned true."""


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values: other parameters or data use another scratch folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fit(
    stage: Stage,
    task: Task,
    device: torch.device,
    folder: Path,
    label: str = "",
    on_epoch: Callable[[int, dict[str, float]], bool] | None = None,
) -> dict[str, Any]:
    """Train on a dataset's train split; validate on its val split after each epoch.

    The task is trained in place, with work in progress in ``folder``, and has no ranges in its
    values. ``label`` starts the lines of progress; by default it is the stage's address.
    ``on_epoch`` is a function of the epoch, from 1, and its validation metrics, which the first
    process calls. If it returns true, the training ends. Returns facts for the run record.

    Raises:
        EndedEarlyError: ``on_epoch`` returned true.
    """
    label, processes = label or stage.address, world()
    config: TrainingConfig = task.config
    data = stage.layout.data(config.dataset)
    if not config.epochs:  # a run without training needs neither split
        splits = describe(data)["splits"]
        task.prepare(Shards(data, "train") if "train" in splits else None)
        task.to(device).eval()
        if "val" in splits:
            _choose(task, Shards(data, "val"), device)
        return {"steps": 0}
    shards = Shards(data, "train", mapped=folder if processes.size > 1 else None)
    val = Shards(data, "val")
    task.workers = stage.runtime.workers
    if not stage.runtime.shard:  # A model that is split may not fit on the device as a whole.
        task.to(device)
        with evaluating(config.precision, device):
            cached = [shards, val] if config.augment.keeps_pixels else [val]
            task.cache_frozen(stage.runtime, cached)
    loader = _prepare(stage, task, shards)

    def validate(epoch: int) -> dict[str, float]:
        with evaluating(config.precision, device):
            table = task.predict(Part(val, 0, config.val_records or None), config.micro_batch_size)
        metrics = processes.broadcast(partial(_validated, task, table, f"{label}: epoch {epoch}"))
        ended = processes.broadcast(lambda: bool(on_epoch and on_epoch(epoch, metrics)))
        stage.tally()
        if ended:
            raise EndedEarlyError
        return metrics

    trackers = _trackers(stage, config, folder) if not on_epoch else None  # no trials of a search
    setup = Setup(folder, device, stage.runtime, mirror_of(stage, folder), stage.code, trackers)
    try:
        facts = Trainer(task, loader, setup, validate, progress(label)).train()
        if not on_epoch:
            if best := facts.get("best_epoch"):
                weights = load_file(kept(folder, [int(best)])[int(best)])
                task.load_state_dict(weights, strict=False)  # LoRA's lack the adapted ones
            _choose(task, val, device)
        tracked = {"trackers": trackers.finish({})} if trackers else {}
        for index in folder.glob("*.arrow") if processes.first else ():
            index.unlink()  # other processes may still map it
        return {**facts, **tracked, "damaged": loader.damage.counts()}
    finally:
        stage.tally()


def _choose(task: Task, val: Shards, device: torch.device) -> None:
    """Let a trained task choose what is decided on the val split."""
    with evaluating(task.config.precision, device):
        task.choose(val, task.config.micro_batch_size)


def _trackers(stage: Stage, config: TrainingConfig, folder: Path) -> Trackers | None:
    names = stage.runtime.trackers
    if not names or not world().first:
        return None
    ids = read_json(folder / IDS) or {}
    run = training(stage.layout, stage.address, stage.seed, config.model_dump())
    trackers = Trackers(names, run, ids)
    write_json(folder / IDS, {**ids, **trackers.ids})
    return trackers


def _prepare(stage: Stage, task: Task, shards: Shards) -> Loader:
    config: TrainingConfig = task.config
    processes, runtime = world(), stage.runtime
    task.prepare(shards)
    recompute(task, runtime.recompute)
    if runtime.compile:
        compile_blocks(task)
    damaged_records = runtime.max_damaged_records.get(config.dataset, 0.0)
    damaged_shards = runtime.max_damaged_shards.get(config.dataset, 0.0)
    return Loader(
        shards,
        task.collate(_transform(task, config)),
        config.global_batch_size,
        config.micro_batch_size,
        stage.seed,
        runtime.workers,
        (processes.rank, processes.size),
        Pool(config.pooled_batches, config.pooled_by),
        config.source_weights,
        Reading(config.window, damaged_records, damaged_shards),
    )


def _transform(task: Task, config: TrainingConfig) -> ImageTransform:
    """Return the transform of training images: states of a cache, or augmented pixels."""
    if isinstance(task.resize, ImageCache) and config.augment.keeps_pixels:
        return task.resize
    return Transform(config.augment, task.image_size)


def _validated(task: Task, table: Table, when: str) -> dict[str, float]:
    """Return the metrics of a validation; log a warning if it does not clearly exceed guessing."""
    (metrics, chance), name = task.validate(table), task.primary
    log.info("%s, %s %.2f", when, name, metrics[name])
    if metrics[name] <= CHANCE_MARGIN * chance:
        log.warning(
            "%s is at chance (%.2f); if it stays there, check data, learning rate and init",
            *(name, chance),
        )
    return metrics


def mirror_of(stage: Stage, folder: Path) -> Mirror | None:
    """Return the mirror of a scratch folder; only the first process has one."""
    if not stage.runtime.mirror or not stage.first:
        return None
    return Mirror(stage.runtime.mirror, folder.relative_to(stage.runtime.scratch_root).as_posix())


def discard(stage: Stage, folder: Path) -> None:
    """Remove the scratch folder of a finished training or search, and its mirror."""
    if mirror := mirror_of(stage, folder):
        mirror.clear()
    shutil.rmtree(folder, ignore_errors=True)  # another machine may remove it too


def publish(
    stage: Stage,
    folder: Path,
    name: str,
    task: Task,
    provenance: Mapping[str, Any],
    init: Checkpoint | None = None,
) -> None:
    """Write the artifacts of a finished training, in its first process, and remove its scratch.

    Kept epochs go to ``epochs/N`` in the folder of the checkpoint ``name``. ``init`` is the
    checkpoint that a run started from; pre-training has none.
    """
    if not stage.first:
        return
    save = partial(
        save_checkpoint,
        kind=task.config.kind if isinstance(task, RunTask) else "pretraining",
        model=task.sizes,
        tokenizer=task.tokenizer,
        values=task.config.model_dump(),
        facts=task.facts() if isinstance(task, RunTask) else None,
    )
    provenance = {**provenance, **origin_of(stage, provenance["dataset"], init)}
    model, curves = stage.layout.model(name), stage.layout.curves(name)
    tensors = merged(task)
    if best := stage.record.get("best_epoch"):
        (path,) = kept(folder, [best]).values()
        tensors, provenance["epoch"] = merged(task, load_file(path)), best
    save(model, tensors=tensors, provenance=provenance)
    stage.made(model / WEIGHTS, model / CONFIG)
    for epoch, path in kept(folder, task.config.keep_epochs).items():
        epochs = model / "epochs" / str(epoch)
        tensors = merged(task, load_file(path))
        save(epochs, tensors=tensors, provenance={**provenance, "epoch": epoch})
    shutil.rmtree(curves, ignore_errors=True)
    curves.mkdir(parents=True)
    if (folder / "curves").is_dir():
        last = shutil.ignore_patterns("metrics.json")  # the last points, which DVC does not draw
        shutil.copytree(folder / "curves", curves, dirs_exist_ok=True, ignore=last)
    if (folder / LOG).exists():
        write_atomic(stage.layout.log(name), (folder / LOG).read_bytes())
    discard(stage, folder)
