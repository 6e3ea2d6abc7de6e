"""Training state on disk: whole or not at all, two kept, one owner."""

import contextlib
import logging
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from albef.io import Locked, atomic, file_digest, lock
from albef.training.distributed import world
from albef.training.mirror import Mirror

log = logging.getLogger(__name__)
KEPT = 2
PATTERN = "state-*.pt"
KEPT_EPOCH, KEPT_PATTERN = "epoch-{}.safetensors", "epoch-*.safetensors"
BEST = "best"
"""Stands for the epoch with the best validation."""
EVERY = 1_000_000


class StateLocked(ValueError):
    """Another live process trains on the same state."""


class StateUnfit(ValueError):
    """A state is whole but of another model."""


class TrainingState:
    """Student, twin, queues, optimizer and position, in one folder.

    No generator is part of it: what is random in a step is drawn from the seed and the step. A
    file's name has its step and the start of its SHA-256, so that one changed bit is noticed.

    Args:
        folder: where the states are.
        mirror: where copies of them go, and come from where the folder has none.
    """

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder = folder
        self.mirror = mirror

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Be the only trainer on the folder; the kernel frees the lock when the process dies.

        Raises:
            StateLocked: names the process that holds it.
        """
        try:
            held = contextlib.ExitStack()
            held.enter_context(lock(self.folder / "lock"))
        except Locked as other:
            raise StateLocked(
                f"process {other.holder} already trains on {self.folder}; wait for it or stop it"
            ) from None
        with held:
            yield

    def files(self) -> list[Path]:
        """Saved states, the newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True)

    def save(self, step: int, task: nn.Module, optimizer: Optimizer, extra: dict[str, Any]) -> None:
        """Save the state before ``step``: written beside, synced, renamed; older ones pruned.

        Raises:
            OSError: it cannot be written, as on a full disk; the states before are as they were.
        """
        part = self.folder / "state.part"
        value = {"step": step, "task": task.state_dict(), "extra": extra}
        value["optimizer"] = optimizer.state_dict()
        try:
            with part.open("wb") as file:
                torch.save(value, file)
                file.flush()
                os.fsync(file.fileno())
            path = self.folder / f"state-{step:09d}-{file_digest(part)[:16]}.pt"
            part.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer wraps the system's error
            part.unlink(missing_ok=True)
            raise OSError(
                f"the state of step {step} cannot be written to {self.folder} ({_first(error)}): "
                "make room there, or name another folder as runtime.scratch, and run it again; "
                "the last good state is kept"
            ) from error
        for old in self.files()[KEPT:]:
            old.unlink()
        if self.mirror:
            self.mirror.push(path, PATTERN, KEPT)

    def keep(self, epoch: str, task: nn.Module) -> None:
        """Keep the weights of an epoch, whole or not at all; see :func:`kept`."""
        path = self.folder / KEPT_EPOCH.format(epoch)
        with atomic(path) as part:
            save_file({name: t.contiguous() for name, t in task.state_dict().items()}, part)
        if self.mirror:
            self.mirror.push(path, KEPT_PATTERN, keep=EVERY)

    def restore(self, task: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """The step to go on from (0 where nothing is saved) and the extra values.

        A state that is damaged is named and set aside, and the one before is taken. Of several
        processes the first one looks for it, and all read the same file.

        Raises:
            StateUnfit: a state is whole but of another model.
        """
        newest = world().broadcast(self._newest)
        if newest is None:
            return 0, {}
        path = self.folder / newest
        try:
            value = torch.load(path, weights_only=True, map_location="cpu")
            task.load_state_dict(value["task"])
            optimizer.load_state_dict(value["optimizer"])
            return int(value["step"]), dict(value["extra"])
        except (KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise StateUnfit(
                f"{path} is the state of another model ({_first(error)}): the code has changed "
                f"since; delete {self.folder} to start this training anew"
            ) from error

    def _newest(self) -> str | None:
        if self.mirror and not self.files() and self.mirror.pull(self.folder, PATTERN):
            self.mirror.pull(self.folder, KEPT_PATTERN)
            log.info("states are taken from the mirror %s", self.mirror.url)
        for path in self.files():
            if file_digest(path)[:16] == path.stem.rpartition("-")[2]:
                return path.name
            log.warning("%s is not what was written; taking the one before", path)
            path.replace(path.with_suffix(".torn"))
        return None

    def wait(self) -> None:
        """Until all copies in the mirror are made."""
        if self.mirror:
            self.mirror.wait()


def kept(folder: Path) -> dict[str, Path]:
    """The safetensors files of a training's kept epochs, by epoch or as :data:`BEST`."""
    return {path.stem.split("-")[1]: path for path in sorted(folder.glob(KEPT_PATTERN))}


def step_of(path: Path) -> int:
    """The step of a saved state, from its name."""
    return int(path.stem.split("-")[1])


def _first(error: Exception) -> str:
    return re.split(r"[\n.]", str(error))[0] or type(error).__name__
