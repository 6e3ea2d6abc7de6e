"""Training state on disk: whole or not at all, two kept, one owner."""

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

log = logging.getLogger(__name__)
KEPT = 2


class StateLocked(ValueError):
    """Another live process trains on the same state."""


@contextlib.contextmanager
def own(folder: Path) -> Iterator[None]:
    """Be the only trainer on ``folder``; the kernel frees the lock when the process dies.

    Raises:
        StateLocked: names the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise StateLocked(
                f"process {owner} already trains on {folder}; wait for it or stop it"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


class TrainingState:
    """Student, twin, queues, optimizer, random generators and position, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[Path]:
        """Saved states, the newest first."""
        return sorted(self.folder.glob("state-*.pt"), reverse=True)

    def save(self, step: int, task: nn.Module, optimizer: Optimizer, extra: dict[str, Any]) -> None:
        """Save the state before ``step``: written beside, synced, renamed; older ones pruned."""
        part = self.folder / "state.part"
        value = {
            "step": step,
            "task": task.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "extra": extra,
        }
        with part.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / f"state-{step:09d}.pt")
        for old in self.files()[KEPT:]:
            old.unlink()

    def restore(self, task: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """The step to go on from (0 where nothing is saved) and the extra values.

        A state that cannot be read is named and set aside, and the one before is taken.
        """
        for path in self.files():
            try:
                value = torch.load(path, weights_only=True, map_location="cpu")
                task.load_state_dict(value["task"])
                optimizer.load_state_dict(value["optimizer"])
            except Exception as error:  # torch raises many kinds for a torn file
                log.warning("%s cannot be read (%s); taking the one before", path, _first(error))
                path.replace(path.with_suffix(".torn"))
                continue
            torch.set_rng_state(value["rng"])
            if value["cuda_rng"]:
                torch.cuda.set_rng_state_all(value["cuda_rng"])
            return int(value["step"]), dict(value["extra"])
        return 0, {}


def _first(error: Exception) -> str:
    return re.split(r"[\n.]", str(error))[0] or type(error).__name__
