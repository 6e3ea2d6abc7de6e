"""The only train loop."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from albef.config import fixed
from albef.data.loader import Loader
from albef.tasks.task import Batch, Task, TrainingConfig, to_device
from albef.training.interrupt import Stopped, interruptible
from albef.training.optim import adamw
from albef.training.schedules import rate
from albef.training.state import TrainingState, own
from albef.training.tracking import Tracker

log = logging.getLogger(__name__)
LOG_EVERY = 10
"""Steps averaged into one point of a curve."""


class NotFinite(ValueError):
    """The loss stopped being a number."""


class Progress(Protocol):
    """What shows how far a training is."""

    def __call__(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Called after each step with the last means."""


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Type of matrix products, or None for float32.

    ``auto`` is a rule, not a timing, so that the same machine always computes the same: bfloat16
    on a GPU that has it and on a processor with AVX-512 BF16 or AMX.
    """
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has else None


def train(
    task: Task,
    config: TrainingConfig,
    loader: Loader,
    *,
    folder: Path,
    device: torch.device,
    checkpoint_every: int,
    validate: Callable[[int], dict[str, float]],
    progress: Progress,
) -> dict[str, float]:
    """Train ``task`` in place, going on from the state in ``folder`` if there is one.

    A run that was killed and goes on ends with the same bytes as one that never stopped.

    Args:
        task: trained in place, on ``device`` afterwards.
        config: values of the training, ranges chosen.
        loader: the train split.
        folder: scratch of this training: states and curves.
        device: where to train.
        checkpoint_every: steps between two saved states.
        validate: called with the epoch, from 1, after each; its metrics are logged as ``val/``.
        progress: shown after each step.

    Returns:
        Facts of this process for the run record: steps, samples per second.

    Raises:
        NotFinite: the loss is no number; the last good state stays.
        StateLocked: another process trains on ``folder``.
        Stopped: SIGINT or SIGTERM came; the state after the step is saved.
    """
    task.to(device)
    lr = fixed(config.lr)
    dtype = autocast_dtype(config.precision, device)
    optimizer = adamw(task, lr, config.weight_decay)
    state = TrainingState(folder)
    with own(folder), interruptible() as interrupt:
        start, extra = state.restore(task, optimizer)
        total = config.epochs * loader.steps_per_epoch
        if start:
            log.info("going on at step %d of %d", start, total)
        tracker = Tracker(folder / "curves", start)
        means: dict[str, float] = {}
        sums: dict[str, Tensor] = extra.get("sums", {})
        began = time.perf_counter()
        task.train()
        for step, batch in enumerate(loader.batches(start, total), start):
            now = rate(config, step, loader.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = now

            task.begin_step()
            outputs = []
            micros = split(to_device(batch, device), config.micro_batch_size)
            for micro in micros:
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    output = task(micro, step / loader.steps_per_epoch)
                (output["loss"] / len(micros)).backward()
                outputs.append({name: value.detach() for name, value in output.items()})
            task.end_step(outputs)
            optimizer.step()
            optimizer.zero_grad()

            for output in outputs:
                for name, value in output.items():
                    if value.ndim == 0:
                        sums[name] = sums.get(name, torch.zeros_like(value)) + value / len(micros)
            done = step + 1
            leaving = interrupt.asked
            saving = done % checkpoint_every == 0 or done == total or leaving
            point_due = done % LOG_EVERY == 0 or done == total
            if (saving or point_due) and not math.isfinite(sums["loss"]):
                raise NotFinite(
                    f"the loss is no number at step {step}; the state before is kept in {folder}. "
                    f"Lower the learning rate ({lr:g}) or use precision float32"
                )
            if point_due:
                points = LOG_EVERY if done % LOG_EVERY == 0 else done % LOG_EVERY
                means = {name: float(value) / points for name, value in sums.items()}
                sums = {}
                tracker.log(step, {f"train/{n}": v for n, v in means.items()} | {"lr": now})
            if done % loader.steps_per_epoch == 0:
                task.eval()
                metrics = validate(done // loader.steps_per_epoch)
                task.train()
                tracker.log(step, {f"val/{name}": value for name, value in metrics.items()})
            progress(done, total, means)
            if saving:
                state.save(done, task, optimizer, {"sums": sums})
            if leaving and done < total:
                raise Stopped(f"stopped after step {done} of {total}, which is saved")
        tracker.close()
        task.eval()
    seconds = time.perf_counter() - began
    samples = (total - start) * config.global_batch_size
    return {
        "steps": total - start,
        "train_seconds": round(seconds, 1),
        "samples_per_second": round(samples / seconds, 1) if samples else 0.0,
        "precision": str(dtype or torch.float32).removeprefix("torch."),  # type: ignore[dict-item]
    }


def split(batch: Batch, size: int) -> list[Batch]:
    """A batch as micro-batches of ``size`` samples."""
    parts = {name: tensor.split(size) for name, tensor in batch.items()}
    count = len(next(iter(parts.values())))
    return [{name: pieces[i] for name, pieces in parts.items()} for i in range(count)]
