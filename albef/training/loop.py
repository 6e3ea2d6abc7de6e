"""The only train loop: one step, and what happens between steps, in the order of time."""

import contextlib
import enum
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from albef.config import fixed
from albef.distributed import world
from albef.layout import Runtime
from albef.loading.loader import Loader
from albef.loading.reading import Batch, to_device
from albef.models.kernels import product_type
from albef.tasks.task import Task, TrainingConfig
from albef.training.mirror import Mirror
from albef.training.optim import OPTIMIZERS, rate
from albef.training.speed import Speed
from albef.training.state import KEPT, TrainingState, kept
from albef.training.tracking import Progress, Tracker, append_log

log = logging.getLogger(__name__)
LOG_EVERY = 10
"""Steps averaged into one point of a curve."""
LOG = "log.jsonl"
"""Beside the curves, what depends on time: rate, utilisation, time left, memory."""
GAUGES = {"temperature", "alpha"}
"""What a task logs beside its losses; no part of ``train/``."""
_KEYS_NAMED = 64


class NotFinite(ValueError):
    """The loss is NaN or Inf.

    Attributes:
        what: where, without the remedy.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


class Stopped(KeyboardInterrupt):
    """A training was asked to stop and has saved its state."""


class Vote(enum.IntFlag):
    """What a process wants after a step; the largest vote has all that the others want."""

    CONTINUE = 0
    SAVE = 1
    LEAVE = 3  # to leave is to save, too


@dataclass(frozen=True)
class Setup:
    """Where a training runs, and what it keeps on the way."""

    folder: Path
    """Scratch of this training: states and curves."""
    device: torch.device
    """Where to train."""
    runtime: Runtime
    """When a state is saved, and whether gradients are exchanged in bfloat16."""
    mirror: Mirror | None = None
    """Where copies of the states go."""
    code: str = ""
    """Digest of the code that trains; resuming a state of other code warns."""


class Trainer:
    """A training: :meth:`train` runs it, the methods below it are its phases.

    A run that was killed and resumed ends with the same bytes as one that never stopped. What the
    model draws for a micro-batch depends on seed and micro-batch alone, so that k processes compute
    what one with k micro-batches does, up to rounding; only the first one writes.

    Args:
        task: trained in place, as its values say, in which ranges are chosen.
        loader: of the train split.
        setup: where to train, and what to keep.
        validate: called with the epoch, from 1, after each, in every process; its metrics are
            logged as ``val/``.
        progress: shown after each step.
    """

    def __init__(
        self,
        task: Task,
        loader: Loader,
        setup: Setup,
        validate: Callable[[int], dict[str, float]],
        progress: Progress,
    ) -> None:
        config: TrainingConfig = task.config
        device = setup.device
        task.to(device)
        for part in config.freeze:
            task.get_submodule(f"model.{part}").requires_grad_(False)
        self.task, self.config, self.loader, self.setup = task, config, loader, setup
        self.validate, self.progress = validate, progress
        self.dtype = product_type(config.precision, device)  # None is float32
        lr, weight_decay = fixed(config.lr), fixed(config.weight_decay)
        self.optimizer = OPTIMIZERS[config.optimizer](task, lr, weight_decay)
        # Keeps gradients of float16 from being 0; a step whose gradients overflow is left out.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.processes = world()
        self.state = TrainingState(setup.folder, setup.mirror)
        self.tracker: Tracker | None = None  # of the first process
        self.total = config.epochs * loader.steps_per_epoch
        self.start = self.done = 0  # steps
        self.sums: dict[str, Tensor] = {}  # of what was logged since the last point
        self.means: dict[str, float] = {}  # of the last point
        self.first_bad = torch.tensor(self.total, device=device)  # step whose loss is NaN or Inf
        self.vote, self.saved_at = Vote.CONTINUE, time.monotonic()
        self.best: dict[str, float] = {}  # value and epoch
        self.needed: list[float | None] = []  # epochs that states on the disk call the best

    def train(self) -> dict[str, float | str]:
        """Train until the last epoch, resuming the state in the folder if there is one.

        Returns:
            Facts of this process for the run record: steps, samples per second, the share of the
            time spent waiting for data, and the epoch to publish where that is the best one.

        Raises:
            NotFinite: the loss is NaN or Inf; the last good state stays.
            StateLocked: another process trains on the folder.
            StateUnfit: what is saved there cannot be resumed.
            Stopped: SIGINT or SIGTERM came; the state after the step is saved.
        """
        owned = self.state.owned() if self.processes.first else contextlib.nullcontext()
        with owned, interruptible() as self.interrupted:
            self.resume()
            batches = self.loader.batches(self.done, self.total)
            self.speed = Speed(self.setup.device, self.dtype or torch.float32)
            self.task.train()
            while self.done < self.total:
                with self.speed.waiting():
                    micros = next(batches)
                self.add(self.step(micros))
                vote = self.agree()
                if self.point_due or vote:
                    self.check_finite()
                if self.point_due:
                    self.log_point()
                if self.done % self.loader.steps_per_epoch == 0:
                    self.evaluate(self.done // self.loader.steps_per_epoch)
                self.progress(self.done, self.total, self.means)
                if Vote.SAVE in vote:
                    self.save()
                if Vote.LEAVE in vote and self.done < self.total:
                    self.leave()
            self.finish()
        return {
            "steps": self.total - self.start,
            "train_seconds": round(self.speed.seconds, 1),
            **self.speed.rates((self.total - self.start) * self.config.global_batch_size),
            "precision": str(self.dtype or torch.float32).removeprefix("torch."),
            **({"best_epoch": self.best["epoch"]} if self.best else {}),
        }

    def resume(self) -> None:
        """Restore the newest state, if there is one, and prepare what starts from it."""
        folder, code = self.setup.folder, self.setup.code
        self.start, extra = self.state.restore(self.task, self.optimizer)
        self.done = self.start
        self.scaler.load_state_dict(extra.get("scaler", self.scaler.state_dict()))
        self.sums, self.best = extra.get("sums", {}), extra.get("best", {})
        self.needed = [self.best.get("epoch")]
        if self.start:
            log.info("going on at step %d of %d", self.start, self.total)
        if self.start and self.processes.first:
            if self.start < self.total and extra.get("code", code) != code:
                log.warning(
                    "the code has changed since step %d was saved: what comes of this training "
                    "is of neither alone; delete %s to start it anew",
                    *(self.start, folder),
                )
            per_epoch = self.loader.steps_per_epoch
            due = [e for e in self.config.keep_epochs if e * per_epoch <= self.start]
            kept(folder, [*due, int(self.best["epoch"])] if self.best else due)
        self.model = self.processes.parallel(self.task, self.setup.runtime.compress)
        if self.processes.first:
            self.tracker = Tracker(folder / "curves", extra.get("curves", {}))

    def step(self, micros: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Take an optimizer step; gradients stay until the next.

        Args:
            micros: this process' micro-batches.

        Returns:
            What each micro-batch gave, on the device.
        """
        task, device, dtype = self.task, self.setup.device, self.dtype
        epoch = self.done / self.loader.steps_per_epoch
        self.optimizer.zero_grad()
        self.lr = rate(self.config, self.done, self.loader.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        task.begin_step()
        outputs: list[dict[str, Tensor]] = []
        for micro, number in zip(micros, self.loader.numbers(self.done), strict=True):
            torch.manual_seed(self.loader.draw_seed(number))
            is_last = len(outputs) == len(micros) - 1  # its backward averages over processes
            alone = contextlib.nullcontext() if is_last else self.processes.no_sync(self.model)
            with alone, self.speed.counted():
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    output = self.model(to_device(micro, device), epoch)
                self.scaler.scale(output["loss"] / len(micros)).backward()
            outputs.append({name: value.detach() for name, value in output.items()})
        task.end_step(self.processes.all_gather(outputs))
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(task.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        return outputs

    @property
    def point_due(self) -> bool:
        """Whether a point of the curves is due after the last step."""
        return self.done % LOG_EVERY == 0 or self.done == self.total

    def add(self, outputs: Sequence[dict[str, Tensor]]) -> None:
        """Add a step's losses to those of the next point, on the device, which nobody waits for."""
        for output in outputs:
            for name, value in output.items():
                if value.ndim == 0:
                    total = self.sums.get(name, torch.zeros_like(value))
                    self.sums[name] = total + value / len(outputs)
        finite = torch.stack([output["loss"].isfinite() for output in outputs]).all()
        earliest = self.first_bad.clamp(max=self.done - 1)
        self.first_bad = torch.where(finite, self.first_bad, earliest)

    def agree(self) -> Vote:
        """Return what is to be done after this step: all that any process wants.

        Several processes meet only where a point is due, and want until then what they wanted.
        """
        runtime = self.setup.runtime
        is_late = time.monotonic() - self.saved_at > runtime.checkpoint_every_s
        if is_late or self.done % runtime.checkpoint_every == 0 or self.done == self.total:
            self.vote |= Vote.SAVE
        if self.interrupted.is_set():
            self.vote |= Vote.LEAVE
        if self.processes.size > 1 and not self.point_due:
            return Vote.CONTINUE
        agreed = Vote(self.processes.all_reduce_max(self.vote, self.setup.device))
        self.vote = Vote.CONTINUE
        return agreed

    def check_finite(self) -> None:
        """Raise :class:`NotFinite` if the loss of a step was, in any process."""
        step = self.processes.all_reduce_min(self.first_bad)
        if step == self.total:
            return
        keys = self.loader.keys(step)
        named = ", ".join(keys[:_KEYS_NAMED]) + (", ..." if len(keys) > _KEYS_NAMED else "")
        raise NotFinite(
            f"the loss is no number at step {step}, of the samples {named}",
            f"the last good state is kept in {self.setup.folder}. Lower the learning rate "
            f"({fixed(self.config.lr):g}) or use precision float32",
        )

    def log_point(self) -> None:
        """Add a point to the curves: the means since the last one."""
        points = (self.done - 1) % LOG_EVERY + 1
        means = self.processes.mean(self.sums)
        self.means = {name: float(value) / points for name, value in means.items()}
        self.sums = {}
        if not self.tracker:
            return
        values = {n if n in GAUGES else f"train/{n}": v for n, v in self.means.items()}
        gradients = [p.grad for p in self.task.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        values |= {"lr": self.lr, "gradient_norm": norm}
        self.tracker.log(self.done - 1, values)
        taken, left = self.done - self.start, self.total - self.done
        micros = taken * len(self.loader.numbers(0))
        append_log(
            self.setup.folder / LOG,
            step=self.done,
            steps=self.total,
            epoch=round(self.done / self.loader.steps_per_epoch, 4),
            seconds_left=round(left * self.speed.seconds / taken),
            **self.speed.rates(taken * self.config.global_batch_size),
            **self.speed.usage(micros),
            **values,
        )

    def evaluate(self, epoch: int) -> None:
        """Validate after an epoch, and keep its weights if they may be wanted."""
        self.task.eval()
        metrics = self.validate(epoch)
        self.task.train()
        reached = metrics.get(self.task.primary, -math.inf)
        is_best = self.config.publish == "best" and reached > self.best.get("value", -math.inf)
        if is_best:
            self.best = {"value": reached, "epoch": epoch}
        if is_best or epoch in self.config.keep_epochs:
            self.processes.broadcast(partial(self.state.keep, epoch, self.task))
        named = {*self.config.keep_epochs, *self.needed, self.best.get("epoch")}
        self.processes.broadcast(partial(self.state.prune_epochs, named))
        if self.tracker:
            validated = {f"val/{name}": value for name, value in metrics.items()}
            self.tracker.log(self.done - 1, validated)

    def save(self) -> None:
        """Have the state after this step written, by the first process."""
        self.saved_at = time.monotonic()
        if self.tracker:
            extra = {"sums": self.sums, "curves": self.tracker.files(), "best": self.best}
            extra |= {"scaler": self.scaler.state_dict(), "code": self.setup.code}
            self.state.save(self.done, self.task, self.optimizer, extra)
        self.needed = [*self.needed[-KEPT:], self.best.get("epoch")]

    def leave(self) -> None:
        """Stop before the end, as somebody asked."""
        self.processes.broadcast(self.state.wait)
        raise Stopped(f"stopped after step {self.done} of {self.total}, which is saved")

    def finish(self) -> None:
        """Complete what is written."""
        if self.tracker:
            self.tracker.close()
        self.processes.broadcast(self.state.wait)
        self.task.eval()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Take SIGINT and SIGTERM while inside, to be acted upon between two steps; a second Ctrl-C
    stops at once. Outside the main thread they are left as they are."""
    interrupted = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not interrupted.is_set():
            log.info("asked to stop: the state is saved after this step")
        interrupted.set()

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.signal(number, ask) for number in signals}
    try:
        yield interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
