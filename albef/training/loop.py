"""The only train loop: one step, and the actions between steps, in order of time."""

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
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from albef.config import fixed
from albef.distributed import world
from albef.layout import Runtime
from albef.loading.loader import Loader
from albef.loading.reading import Batch, to_device
from albef.models.encoders import freeze
from albef.models.kernels import product_type
from albef.tasks.task import Task, TrainingConfig
from albef.trackers import Trackers
from albef.training.lora import adapt
from albef.training.mirror import Mirror
from albef.training.optim import optimizer_of, rate, scale_layers
from albef.training.speed import Speed
from albef.training.state import KEPT, TrainingState, kept
from albef.training.tracking import Progress, Tracker, append_log

if TYPE_CHECKING:
    from albef.training.sharding import Sharding

log = logging.getLogger(__name__)
LOG_EVERY = 10
"""Number of steps averaged into one point of a curve."""
LOG = "log.jsonl"
"""Log of values that depend on time: rate, utilization, time left, memory. It is next to the
curves."""
GAUGES = {"temperature", "alpha"}
"""Values that a task logs in addition to its losses; they are not under ``train/``."""
_KEYS_NAMED = 64


class NonFiniteError(ValueError):
    """A loss that is NaN or Inf.

    Attributes:
        problem: the problem and its location, without the remedy.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem


class StoppedError(KeyboardInterrupt):
    """A training that was asked to stop and has saved its training checkpoint."""


class Vote(enum.IntFlag):
    """Action that a process requests after a step; a larger vote includes the smaller ones."""

    CONTINUE = 0
    SAVE = 1
    LEAVE = 3  # leaving includes saving


@dataclass(frozen=True)
class Setup:
    """Device and folder of a training, and settings of its training checkpoints."""

    folder: Path
    """Scratch folder of this training: training checkpoints and curves."""
    device: torch.device
    runtime: Runtime
    """Sets the interval of training checkpoints, and the exchange of gradients in bfloat16."""
    mirror: Mirror | None = None
    """Destination of copies of the training checkpoints; None makes no copies."""
    code: str = ""
    """Digest of the training code. Resuming a training checkpoint of other code logs a warning."""
    trackers: Trackers | None = None
    """Tools that get the points of the curves, in the first process."""


class Trainer:
    """A training: :meth:`train` runs it, the methods after it are its phases.

    A resumed training ends with the same bytes as one that never stopped. Random draws depend only
    on the seed and the micro-batch, so k processes compute the same as one process with k
    micro-batches, up to rounding. Only the first process writes.

    The task is trained in place and has no ranges in its values. Every process calls ``validate``
    after each epoch with its number, from 1; its metrics are logged under ``val/``. ``progress`` is
    called after each step.
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
        freeze(task, config.freeze)
        self.processes = world()
        self.sharding: Sharding | None = None
        if setup.runtime.shard and self.processes.size > 1:
            from albef.training import sharding  # only here, because its import takes time

            self.sharding = sharding.Sharding(task, device)
        task.to(device)
        if config.lora is not None and not task.base:
            adapt(task, config.lora)
        self.task, self.config, self.loader, self.setup = task, config, loader, setup
        self.validate, self.progress = validate, progress
        self.dtype = product_type(config.precision, device)  # None is float32
        self.optimizer = optimizer_of(task, config)
        if config.layer_decay < 1:
            scale_layers(self.optimizer, task, config.layer_decay)
        if self.sharding:
            self.sharding.split_state(self.optimizer)
        # Scaling keeps gradients of float16 from underflow; a step with overflow is skipped.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.state = TrainingState(setup.folder, setup.mirror)
        self.tracker: Tracker | None = None  # only in the first process
        self.total = config.epochs * loader.steps_per_epoch
        self.start = self.done = 0  # steps
        self.sums: dict[str, Tensor] = {}  # logged values since the last point
        self.means: dict[str, float] = {}  # means of the last point
        self.first_bad = torch.tensor(self.total, device=device)  # step with a loss of NaN or Inf
        self.vote, self.saved_at = Vote.CONTINUE, time.monotonic()
        self.best: dict[str, float] = {}  # value and epoch
        self.needed: list[float | None] = []  # best epochs of saved training checkpoints

    def train(self) -> dict[str, float | str]:
        """Train until the last epoch; resume the training checkpoint in the folder if there is one.

        Returns:
            Facts for the run record: steps, samples per second, share of time spent waiting for
            data. If ``publish`` is ``best``, also the epoch to publish.

        Raises:
            NonFiniteError: the loss is NaN or Inf; the last good training checkpoint is kept.
            CheckpointLockedError: another process trains on the folder.
            CheckpointMismatchError: the saved training checkpoint cannot be resumed.
            StoppedError: SIGINT or SIGTERM arrived; the training checkpoint is saved.
        """
        owned = self.state.owned() if self.processes.first else contextlib.nullcontext()
        mixed = self.sharding.mixed() if self.sharding else contextlib.nullcontext()
        with owned, interruptible() as self.interrupted, mixed:
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
        """Restore the newest training checkpoint, if there is one, and prepare model and curves."""
        folder, code = self.setup.folder, self.setup.code
        self.start, extra = self.state.restore(self.task, self.optimizer)
        self.done = self.start
        self.scaler.load_state_dict(extra.get("scaler", self.scaler.state_dict()))
        self.sums, self.best = extra.get("sums", {}), extra.get("best", {})
        self.needed = [self.best.get("epoch")]
        if self.start:
            log.info("resuming at step %d of %d", self.start, self.total)
        if self.start and self.processes.first:
            if self.start < self.total and extra.get("code", code) != code:
                log.warning(
                    "the code has changed since step %d; delete %s to train from the start",
                    *(self.start, folder),
                )
            per_epoch = self.loader.steps_per_epoch
            due = [e for e in self.config.keep_epochs if e * per_epoch <= self.start]
            kept(folder, [*due, int(self.best["epoch"])] if self.best else due)
        self.model = self.processes.parallel(self.task, self.setup.runtime.compress)
        if self.processes.first:
            curves = extra.get("curves", {})
            self.tracker = Tracker(folder / "curves", curves, self.setup.trackers)

    def step(self, micros: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Take an optimizer step; gradients stay until the next step.

        Returns:
            The outputs of each of this process' micro-batches, on the device.
        """
        task, device, dtype = self.task, self.setup.device, self.dtype
        epoch = self.done / self.loader.steps_per_epoch
        self.optimizer.zero_grad()
        self.lr = rate(self.config, self.done, self.loader.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("scale", 1.0)
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
        """True if a point of the curves is due after the last step."""
        return self.done % LOG_EVERY == 0 or self.done == self.total

    def add(self, outputs: Sequence[dict[str, Tensor]]) -> None:
        """Add a step's losses to those of the next point, on the device, without synchronizing."""
        for output in outputs:
            for name, value in output.items():
                if value.ndim == 0:
                    total = self.sums.get(name, torch.zeros_like(value))
                    self.sums[name] = total + value / len(outputs)
        finite = torch.stack([output["loss"].isfinite() for output in outputs]).all()
        earliest = self.first_bad.clamp(max=self.done - 1)
        self.first_bad = torch.where(finite, self.first_bad, earliest)

    def agree(self) -> Vote:
        """Return the action after this step: the union of all processes' votes.

        Several processes keep their votes until a step where a point is due.
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
        """Raise :class:`NonFiniteError` if the loss of a step was NaN or Inf in any process."""
        step = self.processes.all_reduce_min(self.first_bad)
        if step == self.total:
            return
        keys = self.loader.keys(step)
        named = ", ".join(keys[:_KEYS_NAMED]) + (", ..." if len(keys) > _KEYS_NAMED else "")
        raise NonFiniteError(
            f"loss is NaN or Inf at step {step} (samples {named})",
            f"Lower lr ({fixed(self.config.lr):g}) or set precision: float32. The last training "
            f"checkpoint is kept in {self.setup.folder}",
        )

    def log_point(self) -> None:
        """Add a point to the curves: the means since the last one."""
        points = (self.done - 1) % LOG_EVERY + 1
        means = self.processes.mean(self.sums)
        self.means = {name: float(value) / points for name, value in means.items()}
        self.sums = {}
        gradients = [p.grad for p in self.task.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.sharding:
            norm = self.sharding.gathered(norm)
        if not self.tracker:
            return
        values = {n if n in GAUGES else f"train/{n}": v for n, v in self.means.items()}
        values |= {"lr": self.lr, "gradient_norm": float(norm)}
        self.tracker.log(self.done - 1, values)
        taken, left = self.done - self.start, self.total - self.done
        timed = {
            "epoch": round(self.done / self.loader.steps_per_epoch, 4),
            "seconds_left": round(left * self.speed.seconds / taken),
            **self.speed.rates(taken * self.config.global_batch_size),
            **self.speed.usage(taken * len(self.loader.numbers(0))),
        }
        append_log(self.setup.folder / LOG, step=self.done, steps=self.total, **timed, **values)

    def evaluate(self, epoch: int) -> None:
        """Validate after an epoch, and keep its weights if they may be needed."""
        self.task.eval()
        with self.sharding.whole() if self.sharding else contextlib.nullcontext():
            metrics = self.validate(epoch)
        self.task.train()
        reached = metrics.get(self.task.primary, -math.inf)
        is_best = self.config.publish == "best" and reached > self.best.get("value", -math.inf)
        if is_best:
            self.best = {"value": reached, "epoch": epoch}
        if is_best or epoch in self.config.keep_epochs:
            weights = self.task.state_dict()  # of split ones, each process has a part
            self.processes.broadcast(partial(self.state.keep, epoch, weights))
        named = {*self.config.keep_epochs, *self.needed, self.best.get("epoch")}
        self.processes.broadcast(partial(self.state.prune_epochs, named))
        if self.tracker:
            validated = {f"val/{name}": value for name, value in metrics.items()}
            self.tracker.log(self.done - 1, validated)

    def save(self) -> None:
        """Request the training checkpoint after this step; the first process writes it."""
        self.saved_at = time.monotonic()
        if self.tracker:
            extra = {"sums": self.sums, "curves": self.tracker.files(), "best": self.best}
            extra |= {"scaler": self.scaler.state_dict(), "code": self.setup.code}
            self.state.save(self.done, self.task, self.optimizer, extra)
        elif self.sharding:  # the first process gathers the parts of all
            self.task.state_dict()
            self.optimizer.state_dict()
        self.needed = [*self.needed[-KEPT:], self.best.get("epoch")]

    def leave(self) -> None:
        """Stop before the end because a process was asked to."""
        self.processes.broadcast(self.state.wait)
        raise StoppedError(f"stopped after step {self.done} of {self.total}, which is saved")

    def finish(self) -> None:
        """Wait until all files are written, and close them."""
        if self.tracker:
            self.tracker.close()
        self.processes.broadcast(self.state.wait)
        if self.sharding:
            self.sharding.join()
        self.task.eval()


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Catch SIGINT and SIGTERM in the main thread, to act on them between two steps.

    A second Ctrl-C stops at once.
    """
    interrupted = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not interrupted.is_set():
            log.info("stopping after this step; its training checkpoint is saved")
        interrupted.set()

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.signal(number, ask) for number in signals}
    try:
        yield interrupted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
