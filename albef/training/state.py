"""Training checkpoints on disk: written atomically, two kept, one owner."""

import contextlib
import fnmatch
import logging
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from albef.distributed import world
from albef.io import LockedError, file_digest, first_line, lock, sync
from albef.training.mirror import PENDING, Mirror

log = logging.getLogger(__name__)
KEPT = 2
_STATE = re.compile(r"state-[0-9]{9,}-[0-9a-f]{16}\.pt")
STATES, EPOCHS, DAMAGED = "state-*.pt", "epoch-*.safetensors", "*.torn"


class CheckpointLockedError(ValueError):
    """A folder of training checkpoints that another live process trains on."""


class CheckpointMismatchError(ValueError):
    """A training checkpoint that cannot be resumed: it is of another model, or all are damaged."""


class TrainingState:
    """Student, momentum model, queue, optimizer and position of a training, in one folder.

    A thread writes a copy while training continues; of several that wait, only the newest. A file's
    name has its step and the start of its SHA-256. Random draws depend on seed and step, so no
    generator is saved. Copies go to the mirror; training checkpoints that are newer there come from
    it.
    """

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder, self.mirror = folder, mirror
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writes: list[Future[None]] = []
        self._pending: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Own the folder as its only trainer, until pending writes are done.

        Raises:
            CheckpointLockedError: another process holds the lock.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock(self.folder / "lock"))
            except LockedError as other:
                raise CheckpointLockedError(
                    f"process {other.holder} trains on {self.folder}; wait for it or stop it"
                ) from None
            for pattern in ("*.part", PENDING.format("*")):  # left by a killed process
                for path in self._files(pattern):
                    path.unlink()
            with self._pool:
                yield

    def _files(self, pattern: str) -> list[Path]:
        """Return files that match ``pattern``, in descending order; a glob would hide errors."""
        paths = (path for path in self.folder.iterdir() if fnmatch.fnmatch(path.name, pattern))
        return sorted(paths, reverse=True)

    def files(self) -> list[Path]:
        """Return the saved training checkpoints, the newest first."""
        return self._files(STATES)

    def save(self, step: int, task: nn.Module, optimizer: Optimizer, extra: dict[str, Any]) -> None:
        """Request an atomic write of the training checkpoint before ``step``, and prune older ones.

        Raises:
            OSError: the last one could not be written; earlier ones are unchanged.
        """
        self._check(write for write in self._writes if write.done())
        value = {"step": step, "task": task.state_dict(), "extra": extra}
        value["optimizer"] = optimizer.state_dict()
        copied = tree_map_only(torch.Tensor, lambda t: t.detach().to("cpu", copy=True), value)
        self._pending[:] = [copied]
        self._writes.append(self._pool.submit(self._write_state))

    def _check(self, writes: Iterable["Future[None]"]) -> None:
        """Raise errors of finished writes; each error once."""
        for write in list(writes):
            self._writes.remove(write)
            write.result()

    def _write_state(self) -> None:
        try:
            value = self._pending.pop()
        except IndexError:  # a newer one was written instead
            return
        step = value["step"]
        name = f"state-{step:09d}-{{}}.pt"
        path = self._write(f"training checkpoint {step}", name, partial(torch.save, value))
        for stale in self.files()[KEPT:]:
            stale.unlink()
        if self.mirror:
            self.mirror.push(path, STATES, KEPT)

    def keep(self, epoch: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights of an epoch, written atomically; see :func:`kept`.

        Raises:
            OSError: the weights cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        name = f"epoch-{epoch:05d}-{{}}.safetensors"
        path = self._write(f"weights of epoch {epoch}", name, partial(save_file, tensors))
        pattern = _epoch(epoch)
        for stale in self._files(pattern):  # of a run that stopped right after it
            if stale != path:
                stale.unlink()
        if self.mirror:
            self.mirror.push(path, pattern, 1)

    def prune_epochs(self, needed: Collection[float | None]) -> None:
        """Remove local weights of kept epochs that are not ``needed``, after all pending writes.

        The mirror keeps them: its training checkpoints may be older and need them.
        """
        self._check(self._writes)
        for path in self._files(EPOCHS):
            if int(path.name.split("-")[1]) not in needed:
                path.unlink()

    def _write(self, noun: str, name: str, write: Callable[[Path], None]) -> Path:
        """Write and sync the file ``name``, in which {} stands for its digest."""
        part = self.folder / f"{name[:5]}.part"
        try:
            write(part)
            sync(part)
            path = self.folder / name.format(file_digest(part)[:16])
            part.replace(path)
            sync(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:  # two wrap the system's error
            part.unlink(missing_ok=True)
            raise OSError(
                f"cannot write {noun} to {self.folder} ({first_line(error)}); free disk space or "
                "set runtime.scratch, then run again. The last training checkpoint is kept"
            ) from error
        return path

    def restore(self, task: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """Restore the newest training checkpoint.

        A file that does not match its digest is logged and rejected. Of several processes, the
        first one searches, locally and in the mirror, and all read the file.

        Returns:
            The step to resume from, 0 if nothing was saved, and the extra values.

        Raises:
            CheckpointMismatchError: an intact training checkpoint is of another model, or all are
                damaged.
            OSError: a training checkpoint or the mirror cannot be read; all files are unchanged.
        """
        newest = world().broadcast(self._newest)
        if newest is None:
            return 0, {}
        path, value = self.folder / newest, None
        try:
            value = torch.load(path, weights_only=True, map_location="cpu")
            task.load_state_dict(value["task"])
            optimizer.load_state_dict(value["optimizer"])
            return int(value["step"]), dict(value["extra"])
        except (OSError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            if value is None and not isinstance(error, pickle.UnpicklingError):
                raise _unreadable(path, error) from error  # the file is intact
            raise CheckpointMismatchError(
                f"{path} is of another model ({first_line(error)}), because the code has changed; "
                f"delete {self.folder} to train from the start"
            ) from error

    def _newest(self) -> str | None:
        for path in self.files():  # A dangling link would be skipped, and a pipe would block.
            if not _STATE.fullmatch(path.name) or not path.is_file():
                raise CheckpointMismatchError(
                    f"{path} is named like a training checkpoint but is not one; remove it"
                )
        mirrored = self.mirror.names(STATES) if self.mirror else []
        for name in sorted({*mirrored, *(path.name for path in self.files())}, reverse=True):
            if self._has_intact(name, name in mirrored):
                if self.mirror:
                    self._share_epochs(self.mirror)
                return name
        if self._files(DAMAGED):
            mirror = f" and {self.mirror.url}" if self.mirror else ""
            raise CheckpointMismatchError(
                f"all training checkpoints in {self.folder} are damaged; delete the folder{mirror} "
                "to train from the start"
            )
        return None

    def _share_epochs(self, mirror: Mirror) -> None:
        """Exchange kept epochs with the mirror, because a process may have been killed before."""
        local = self._files(EPOCHS)
        for epoch in mirror.names(EPOCHS):
            self._has_intact(epoch, True)
        for path in local:
            mirror.push(path, _epoch(int(path.name.split("-")[1])), 1)

    def _has_intact(self, name: str, mirrored: bool) -> bool:
        """Return whether a file is intact, locally or once it is fetched from the mirror."""
        path = self.folder / name
        for fetched in (False, True) if mirrored else (False,):
            if fetched and self.mirror:
                self.mirror.fetch(name, path)
                log.info("%s is fetched from the mirror %s", name, self.mirror.url)
            if not path.exists():
                continue
            if _is_intact(path):
                return True
            log.warning("%s is damaged; it is renamed to .torn", path)
            path.replace(path.with_suffix(".torn"))
        return False

    def wait(self) -> None:
        """Wait until all files are written and all copies in the mirror are made.

        Raises:
            OSError: a file cannot be written.
        """
        self._check(self._writes)
        if self.mirror:
            self.mirror.wait()


def kept(folder: Path, epochs: Iterable[int]) -> dict[int, Path]:
    """Return the safetensors files of a training's kept epochs, by epoch.

    Raises:
        CheckpointMismatchError: a file is missing or damaged.
    """
    files = {}
    for epoch in epochs:
        path = next(folder.glob(_epoch(epoch)), None)
        if path is None or not _is_intact(path):
            raise CheckpointMismatchError(
                f"weights of epoch {epoch} in {folder} are missing or damaged; delete the folder "
                "to train from the start"
            )
        files[epoch] = path
    return files


def _epoch(epoch: int) -> str:
    return f"epoch-{epoch:05d}-*.safetensors"


def _is_intact(path: Path) -> bool:
    try:
        return file_digest(path)[:16] == path.stem.rpartition("-")[2]
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> OSError:
    return OSError(f"cannot read {path} ({first_line(error)})")
