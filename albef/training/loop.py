"""The only train loop."""

import contextlib
import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from albef.config import fixed
from albef.loading.loader import Loader
from albef.tasks.task import Task, TrainingConfig, to_device
from albef.training.distributed import World, world
from albef.training.interrupt import Stopped, interruptible
from albef.training.mirror import Mirror
from albef.training.optim import adamw
from albef.training.schedules import rate
from albef.training.speed import Speed
from albef.training.state import TrainingState, own
from albef.training.tracking import Log, Tracker
from albef.training.watch import Watch

log = logging.getLogger(__name__)
LOG_EVERY = 10
"""Steps averaged into one point of a curve."""
LOG = "log.jsonl"
"""Beside the curves, what depends on time: rate, utilisation, time left, memory."""
GAUGES = {"temperature", "alpha"}
"""What a task tells beside its losses; no part of ``train/``."""
_KEYS_SHOWN = 64


class NotFinite(ValueError):
    """The loss stopped being a number.

    Attributes:
        what: where, without the remedy.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


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
    mirror: Mirror | None = None,
    device: torch.device,
    checkpoint_every: int,
    validate: Callable[[int], dict[str, float]],
    progress: Progress,
) -> dict[str, float]:
    """Train ``task`` in place, going on from the state in ``folder`` if there is one.

    A run that was killed and goes on ends with the same bytes as one that never stopped. What the
    model draws for a micro-batch depends on seed and micro-batch alone, so that k processes compute
    what one with k micro-batches does, up to rounding; only the first one writes.

    Args:
        task: trained in place, on ``device`` afterwards.
        config: values of the training, ranges chosen.
        loader: the train split.
        folder: scratch of this training: states and curves.
        mirror: where copies of the states go.
        device: where to train.
        checkpoint_every: steps between two saved states.
        validate: called with the epoch, from 1, after each, in every process; its metrics are
            logged as ``val/``.
        progress: shown after each step.

    Returns:
        Facts of this process for the run record: steps, samples per second, the share of the time
        spent waiting for data.

    Raises:
        NotFinite: the loss is no number; the last good state stays.
        StateLocked: another process trains on ``folder``.
        Stopped: SIGINT or SIGTERM came; the state after the step is saved.
    """
    task.to(device)
    lr = fixed(config.lr)
    dtype = autocast_dtype(config.precision, device)
    optimizer = adamw(task, lr, fixed(config.weight_decay))
    processes = world()
    state = TrainingState(folder, mirror)
    with _owned(folder, processes), interruptible() as interrupt:
        start, extra = state.restore(task, optimizer, processes)
        total = config.epochs * loader.steps_per_epoch
        if start:
            log.info("going on at step %d of %d", start, total)
        model = processes.parallel(task)
        curves = extra.get("curves", {})
        tracker = Tracker(folder / "curves", curves) if processes.first else None
        journal = Log(folder / LOG) if processes.first else None
        speed = Speed(device, dtype or torch.float32)
        watch = Watch(task.chance_losses)
        means: dict[str, float] = {}
        sums: dict[str, Tensor] = extra.get("sums", {})
        bad = torch.full((), total, device=device)
        save_due = False
        waited = 0.0
        batches = loader.batches(start, total)
        began = time.perf_counter()
        task.train()
        for step in range(start, total):
            asked = time.perf_counter()
            micros = next(batches)
            waited += time.perf_counter() - asked
            now = rate(config, step, loader.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = now

            task.begin_step()
            outputs: list[dict[str, Tensor]] = []
            for number, micro in zip(loader.numbers(step), micros, strict=True):
                torch.manual_seed(loader.draw_seed(number))
                last = len(outputs) == len(micros) - 1
                with contextlib.nullcontext() if last else processes.apart(model), speed.counted():
                    with torch.autocast(device.type, dtype, enabled=dtype is not None):
                        output = model(to_device(micro, device), step / loader.steps_per_epoch)
                    (output["loss"] / len(micros)).backward()
                outputs.append({name: value.detach() for name, value in output.items()})
            task.end_step(processes.gathered(outputs))
            optimizer.step()

            for output in outputs:
                for name, value in output.items():
                    if value.ndim == 0:
                        sums[name] = sums.get(name, torch.zeros_like(value)) + value / len(micros)
                bad = torch.where(output["loss"].isfinite(), bad, bad.clamp(max=step))
            done = step + 1
            point_due = done % LOG_EVERY == 0 or done == total
            leaving = interrupt.asked
            if processes.size > 1:  # they agree, and on saving, where they meet for a point anyway
                leaving = point_due and bool(processes.most(interrupt.asked, device))
            save_due |= done % checkpoint_every == 0 or done == total or leaving
            saving = save_due and (processes.size == 1 or point_due)
            if (saving or point_due) and (found := -processes.most(-int(bad), device)) < total:
                raise _not_finite(found, loader.keys(found), folder, lr)
            if point_due:
                points = LOG_EVERY if done % LOG_EVERY == 0 else done % LOG_EVERY
                sums = processes.mean(sums)
                means = {name: float(value) / points for name, value in sums.items()}
                sums = {}
                if tracker and journal:
                    watch.point(done, means)
                    values = {n if n in GAUGES else f"train/{n}": v for n, v in means.items()}
                    values |= {"lr": now, "gradient_norm": gradient_norm(task)}
                    tracker.log(step, values)
                    rate_now = (done - start) / (time.perf_counter() - began)
                    journal.write(
                        step=done,
                        steps=total,
                        epoch=round(done / loader.steps_per_epoch, 4),
                        samples_per_second=round(rate_now * config.global_batch_size, 1),
                        seconds_left=round((total - done) / rate_now),
                        waiting_percent=_percent(waited, time.perf_counter() - began),
                        **speed.at(rate_now * len(micros)),
                        memory_mib=memory_mib(device),
                        **values,
                    )
            optimizer.zero_grad()
            if done % loader.steps_per_epoch == 0:
                task.eval()
                metrics = validate(done // loader.steps_per_epoch)
                task.train()
                if tracker and done // loader.steps_per_epoch in config.keep_epochs:
                    state.keep(done // loader.steps_per_epoch, task)
                if tracker:
                    tracker.log(step, {f"val/{name}": value for name, value in metrics.items()})
            progress(done, total, means)
            if saving:
                save_due = False
                if tracker:
                    kept = {"sums": sums, "curves": tracker.files()}
                    state.save(done, task, optimizer, kept)
            if leaving and done < total:
                if mirror:
                    mirror.wait()
                raise Stopped(f"stopped after step {done} of {total}, which is saved")
        if tracker:
            tracker.close()
        if mirror:
            mirror.wait()
        task.eval()
    seconds = time.perf_counter() - began
    samples = (total - start) * config.global_batch_size
    return {
        "steps": total - start,
        "train_seconds": round(seconds, 1),
        "samples_per_second": round(samples / seconds, 1) if samples else 0.0,
        "waiting_percent": _percent(waited, seconds),
        "precision": str(dtype or torch.float32).removeprefix("torch."),  # type: ignore[dict-item]
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * part / max(whole, 1e-9), 1)


def gradient_norm(module: nn.Module) -> float:
    """Euclidean norm of all gradients together."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))


def memory_mib(device: torch.device) -> int:
    """Most memory so far, in MiB: of the GPU's allocator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)  # bytes there, KiB elsewhere


def _owned(folder: Path, processes: World) -> contextlib.AbstractContextManager[None]:
    return own(folder) if processes.first else contextlib.nullcontext()


def _not_finite(step: int, keys: Sequence[str], folder: Path, lr: float) -> NotFinite:
    shown = ", ".join(keys[:_KEYS_SHOWN]) + (", ..." if len(keys) > _KEYS_SHOWN else "")
    return NotFinite(
        f"the loss is no number at step {step}, of the samples {shown}",
        f"the last good state is kept in {folder}. Lower the learning rate ({lr:g}) or use "
        "precision float32",
    )
