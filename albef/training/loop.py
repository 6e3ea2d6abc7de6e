"""The only train loop: one step, and what happens between steps, in the order of time."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from albef.config import fixed
from albef.distributed import World, world
from albef.loading.loader import Loader
from albef.loading.reading import Batch, to_device
from albef.models.kernels import product_type
from albef.tasks.task import Task, TrainingConfig
from albef.training.mirror import Mirror
from albef.training.optim import OPTIMIZERS, rate
from albef.training.progress import Progress
from albef.training.speed import Speed
from albef.training.state import KEPT, TrainingState, kept
from albef.training.tracking import ChanceWatch, Tracker, append_log

log = logging.getLogger(__name__)
LOG_EVERY = 10
"""Steps averaged into one point of a curve."""
LOG = "log.jsonl"
"""Beside the curves, what depends on time: rate, utilisation, time left, memory."""
GAUGES = {"temperature", "alpha"}
"""What a task tells beside its losses; no part of ``train/``."""
_KEYS_NAMED = 64


class NotFinite(ValueError):
    """The loss stopped being a number.

    Attributes:
        what: where, without the remedy.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


class Stopped(KeyboardInterrupt):
    """A training was asked to stop and has saved its state."""


class Interrupt:
    """Whether a signal has asked a training to stop."""

    requested = False


def train_step(
    task: Task,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    micros: Sequence[Batch],
    seeds: Sequence[int],
    *,
    epoch: float,
    lr: float,
    device: torch.device,
    dtype: torch.dtype | None,
    clip_norm: float | None,
    processes: World,
    speed: Speed,
) -> list[dict[str, Tensor]]:
    """One optimizer step; gradients stay until the next.

    Args:
        task: what is trained.
        model: the task, or what averages its gradients over processes.
        optimizer: of its parameters.
        scaler: of the loss, so that gradients of float16 are no zeros; a step whose gradients are
            no numbers is left out, and the scale halved.
        micros: this process' micro-batches.
        seeds: of what the model draws for each.
        epoch: epochs done, in fractions.
        lr: learning rate of this step.
        device, dtype: of matrix products; no dtype is float32.
        clip_norm: of the gradient, at most.
        processes: that train together.
        speed: counts the operations of the first micro-batch.

    Returns:
        What each micro-batch gave, on the device.
    """
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        group["lr"] = lr
    task.begin_step()
    outputs: list[dict[str, Tensor]] = []
    for micro, seed in zip(micros, seeds, strict=True):
        torch.manual_seed(seed)
        last = len(outputs) == len(micros) - 1  # averages gradients for all
        with contextlib.nullcontext() if last else processes.no_sync(model), speed.counted():
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                output = model(to_device(micro, device), epoch)
            scaler.scale(output["loss"] / len(micros)).backward()
        outputs.append({name: value.detach() for name, value in output.items()})
    task.end_step(processes.all_gather(outputs))
    scaler.unscale_(optimizer)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(task.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return outputs


def train(
    task: Task,
    config: TrainingConfig,
    loader: Loader,
    *,
    folder: Path,
    mirror: Mirror | None = None,
    device: torch.device,
    checkpoint_every: int,
    checkpoint_every_s: float = math.inf,
    compress: bool = False,
    code: str = "",
    validate: Callable[[int], dict[str, float]],
    progress: Progress,
) -> dict[str, float | str]:
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
        checkpoint_every_s: seconds after which one is saved, if the steps take longer.
        compress: exchange gradients in bfloat16.
        code: digest of the code that trains; a state of other code is gone on with, and warned of.
        validate: called with the epoch, from 1, after each, in every process; its metrics are
            logged as ``val/``.
        progress: shown after each step.

    Returns:
        Facts of this process for the run record: steps, samples per second, the share of the time
        spent waiting for data, and the epoch to publish where that is the best one.

    Raises:
        NotFinite: the loss is no number; the last good state stays.
        StateLocked: another process trains on ``folder``.
        StateUnfit: what is saved there cannot be gone on with.
        Stopped: SIGINT or SIGTERM came; the state after the step is saved.
    """
    task.to(device)
    dtype = product_type(config.precision, device)
    for part in config.freeze:
        task.get_submodule(f"model.{part}").requires_grad_(False)
    optimizer = OPTIMIZERS[config.optimizer](task, fixed(config.lr), fixed(config.weight_decay))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    processes = world()
    state = TrainingState(folder, mirror)
    with (
        state.owned() if processes.first else contextlib.nullcontext(),
        interruptible() as interrupt,
    ):
        start, extra = state.restore(task, optimizer)
        best: dict[str, float] = extra.get("best", {})
        scaler.load_state_dict(extra.get("scaler", scaler.state_dict()))
        needed = [best.get("epoch")]  # by the states on the disk, and one that is being written
        total = config.epochs * loader.steps_per_epoch
        if start:
            log.info("going on at step %d of %d", start, total)
            if processes.first:
                if start < total and extra.get("code", code) != code:
                    log.warning(
                        "the code has changed since step %d was saved: what comes of this training "
                        "is of neither alone; delete %s to start it anew",
                        *(start, folder),
                    )
                due = [e for e in config.keep_epochs if e * loader.steps_per_epoch <= start]
                kept(folder, [*due, int(best["epoch"])] if best else due)
        model = processes.parallel(task, compress)
        curves = extra.get("curves", {})
        tracker = Tracker(folder / "curves", curves) if processes.first else None
        watch = ChanceWatch(task.chance_losses)
        sums: dict[str, Tensor] = extra.get("sums", {})
        means: dict[str, float] = {}
        not_finite = torch.zeros((), dtype=torch.int64, device=device)  # steps, with the first
        save_due, saved = False, time.monotonic()
        batches = loader.batches(start, total)
        speed = Speed(device, dtype or torch.float32)
        task.train()
        for step in range(start, total):
            with speed.waiting():
                micros = next(batches)
            lr = rate(config, step, loader.steps_per_epoch)
            outputs = train_step(
                task,
                model,
                optimizer,
                scaler,
                micros,
                [loader.draw_seed(number) for number in loader.numbers(step)],
                epoch=step / loader.steps_per_epoch,
                lr=lr,
                device=device,
                dtype=dtype,
                clip_norm=config.clip_norm,
                processes=processes,
                speed=speed,
            )
            done = step + 1

            # Nothing is read from the device but for a point of the curves or a saved state.
            for output in outputs:
                for name, value in output.items():
                    if value.ndim == 0:
                        sums[name] = sums.get(name, torch.zeros_like(value)) + value / len(micros)
            finite = torch.stack([output["loss"].isfinite() for output in outputs]).all()
            not_finite = not_finite + ((not_finite > 0) | ~finite)

            point_due = done % LOG_EVERY == 0 or done == total
            leaving, late = interrupt.requested, time.monotonic() - saved > checkpoint_every_s
            if processes.size > 1:  # they agree, and on saving, where they meet for a point anyway
                agreed = processes.all_reduce_max(2 * leaving + late, device) if point_due else 0
                leaving, late = agreed > 1, agreed > 0
            save_due |= done % checkpoint_every == 0 or done == total or leaving or late
            saving = save_due and (processes.size == 1 or point_due)
            if (saving or point_due) and (bad := processes.all_reduce_max(not_finite, device)):
                raise _not_finite(done - bad, loader, folder, config)

            if point_due:
                points = step % LOG_EVERY + 1
                means = {name: float(v) / points for name, v in processes.mean(sums).items()}
                sums = {}
                if tracker:
                    watch.point(done, means)
                    values = {n if n in GAUGES else f"train/{n}": v for n, v in means.items()}
                    values |= {"lr": lr, "gradient_norm": gradient_norm(task)}
                    tracker.log(step, values)
                    append_log(
                        folder / LOG,
                        step=done,
                        steps=total,
                        epoch=round(done / loader.steps_per_epoch, 4),
                        seconds_left=round((total - done) * speed.seconds / (done - start)),
                        **speed.rates((done - start) * config.global_batch_size),
                        **speed.usage((done - start) * len(micros)),
                        **values,
                    )

            epoch, inside = divmod(done, loader.steps_per_epoch)
            if inside == 0:
                task.eval()
                metrics = validate(epoch)
                task.train()
                reached = metrics.get(task.primary, -math.inf)
                if is_best := config.publish == "best" and reached > best.get("value", -math.inf):
                    best = {"value": reached, "epoch": epoch}
                if is_best or epoch in config.keep_epochs:
                    processes.broadcast(partial(state.keep, epoch, task))
                named = {*config.keep_epochs, *needed, best.get("epoch")}
                processes.broadcast(partial(state.prune_epochs, named))
                if tracker:
                    tracker.log(step, {f"val/{name}": value for name, value in metrics.items()})
            progress(done, total, means)

            if saving:
                save_due, saved = False, time.monotonic()
                if tracker:
                    extra = {"sums": sums, "curves": tracker.files(), "best": best}
                    extra |= {"scaler": scaler.state_dict(), "code": code}
                    state.save(done, task, optimizer, extra)
                needed = [*needed[-KEPT:], best.get("epoch")]
            if leaving and done < total:
                processes.broadcast(state.wait)
                raise Stopped(f"stopped after step {done} of {total}, which is saved")
        if tracker:
            tracker.close()
        processes.broadcast(state.wait)
        task.eval()
    return {
        "steps": total - start,
        "train_seconds": round(speed.seconds, 1),
        **speed.rates((total - start) * config.global_batch_size),
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        **({"best_epoch": best["epoch"]} if best else {}),
    }


def gradient_norm(module: nn.Module) -> float:
    """Euclidean norm of all gradients together."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))


def _not_finite(step: int, loader: Loader, folder: Path, config: TrainingConfig) -> NotFinite:
    keys = loader.keys(step)
    named = ", ".join(keys[:_KEYS_NAMED]) + (", ..." if len(keys) > _KEYS_NAMED else "")
    return NotFinite(
        f"the loss is no number at step {step}, of the samples {named}",
        f"the last good state is kept in {folder}. Lower the learning rate ({fixed(config.lr):g}) "
        "or use precision float32",
    )


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Take SIGINT and SIGTERM while inside, to be acted upon between two steps; a second Ctrl-C
    stops at once. Outside the main thread they are left as they are."""
    interrupt = Interrupt()

    def ask(number: int, frame: FrameType | None) -> None:
        if interrupt.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not interrupt.requested:
            log.info("asked to stop: the state is saved after this step")
        interrupt.requested = True

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.signal(number, ask) for number in signals}
    try:
        yield interrupt
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
