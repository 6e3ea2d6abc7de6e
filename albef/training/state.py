"""Training state on disk: whole or not at all, two kept, one owner."""

import contextlib
import fnmatch
import logging
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Iterator
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
from albef.io import Locked, file_digest, lock, sync
from albef.training.mirror import PENDING, Mirror

log = logging.getLogger(__name__)
KEPT = 2
STATES, EPOCHS, TORN = "state-*.pt", "epoch-*.safetensors", "*.torn"


class StateLocked(ValueError):
    """Another live process trains on the same state."""


class StateUnfit(ValueError):
    """What is saved cannot be gone on with: it is of another model, or all of it is damaged."""


class TrainingState:
    """Student, twin, queues, optimizer and position, in one folder.

    A state is copied to the host's memory, and written from there by a thread while training goes
    on; of several that wait the newest alone is.

    No generator is part of it: what is random in a step is drawn from the seed and the step. A
    file's name has its step and the start of its SHA-256, so that one changed bit is noticed.

    Args:
        folder: where the states are.
        mirror: where copies of them go, and come from where they are newer.
    """

    def __init__(self, folder: Path, mirror: Mirror | None = None) -> None:
        self.folder = folder
        self.mirror = mirror
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writes: list[Future[None]] = []
        self._pending: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Be the only trainer on the folder, until what is being written is; the kernel frees the
        lock when the process dies.

        Raises:
            StateLocked: names the process that holds it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock(self.folder / "lock"))
            except Locked as other:
                raise StateLocked(
                    f"process {other.holder} already trains on {self.folder}; wait for it or "
                    "stop it"
                ) from None
            for pattern in ("*.part", PENDING.format("*")):  # of one that was killed
                for path in self._files(pattern):
                    path.unlink()
            with self._pool:
                yield

    def _files(self, pattern: str) -> list[Path]:
        """Files like ``pattern``, the last by letter first; a glob is silent on errors."""
        paths = (path for path in self.folder.iterdir() if fnmatch.fnmatch(path.name, pattern))
        return sorted(paths, reverse=True)

    def files(self) -> list[Path]:
        """Saved states, the newest first."""
        return self._files(STATES)

    def save(self, step: int, task: nn.Module, optimizer: Optimizer, extra: dict[str, Any]) -> None:
        """Have the state before ``step`` saved, whole or not at all; older ones are pruned.

        Raises:
            OSError: the last one could not be written, as on a full disk; those before are as they
                were.
        """
        self._check(write for write in self._writes if write.done())
        value = {"step": step, "task": task.state_dict(), "extra": extra}
        value["optimizer"] = optimizer.state_dict()
        snapshot = tree_map_only(
            torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), value
        )
        self._pending[:] = [snapshot]
        self._writes.append(self._pool.submit(self._write_state))

    def _check(self, writes: Iterable["Future[None]"]) -> None:
        """Raise what went wrong in writing; of each once."""
        for write in list(writes):
            self._writes.remove(write)
            write.result()

    def _write_state(self) -> None:
        try:
            value = self._pending.pop()
        except IndexError:  # a newer one was written in its place
            return
        step = value["step"]
        name = f"state-{step:09d}-{{}}.pt"
        path = self._write(f"the state of step {step}", name, partial(torch.save, value))
        for stale in self.files()[KEPT:]:
            stale.unlink()
        if self.mirror:
            self.mirror.push(path, STATES, KEPT)

    def keep(self, epoch: int, task: nn.Module) -> None:
        """Keep the weights of an epoch, whole or not at all; see :func:`kept`.

        Raises:
            OSError: they cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in task.state_dict().items()}
        name = f"epoch-{epoch:05d}-{{}}.safetensors"
        path = self._write(f"the weights of epoch {epoch}", name, partial(save_file, tensors))
        pattern = _epoch(epoch)
        for stale in self._files(pattern):  # of a run that was cut off right after it
            if stale != path:
                stale.unlink()
        if self.mirror:
            self.mirror.push(path, pattern, 1)

    def prune_epochs(self, needed: Collection[float | None]) -> None:
        """Remove the kept weights of epochs that are not ``needed``, here; a mirror's states may be
        older and need them. First all that waits is written, so that a state that is left out is
        never of another epoch than the one in its place."""
        self._check(self._writes)
        for path in self._files(EPOCHS):
            if int(path.name.split("-")[1]) not in needed:
                path.unlink()

    def _write(self, noun: str, name: str, write: Callable[[Path], None]) -> Path:
        """A file that is synced before it has its name, in which its digest is filled in.

        Args:
            noun: what is written, for errors.
            name: with {} for the digest.
            write: writes a file.
        """
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
                f"{noun} cannot be written to {self.folder} ({_first(error)}): make room there, or "
                "name another folder as runtime.scratch, and run it again; the last good state is "
                "kept"
            ) from error
        return path

    def restore(self, task: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
        """The step to go on from (0 where nothing was ever saved) and the extra values.

        The newest state counts that is what was written, here or in the mirror; a damaged one is
        named and set aside. Of several processes the first one looks for it, and all read the file.

        Raises:
            StateUnfit: a state is whole but of another model, or all of them are damaged.
            OSError: a state or the mirror cannot be read; all of it stays as it is.
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
                raise _unreadable(path, error) from error  # as it is what was written
            raise StateUnfit(
                f"{path} is the state of another model ({_first(error)}): the code has changed "
                f"since; delete {self.folder} to start this training anew"
            ) from error

    def _newest(self) -> str | None:
        mirrored = self.mirror.names(STATES) if self.mirror else []
        for name in sorted({*mirrored, *(path.name for path in self.files())}, reverse=True):
            if self._take(name, name in mirrored):
                if self.mirror:
                    self._share_epochs(self.mirror)
                return name
        if self._files(TORN):
            mirror = f" and {self.mirror.url}" if self.mirror else ""
            raise StateUnfit(
                f"no state in {self.folder} is what was written; the damaged ones are set aside "
                f"as {TORN}: delete that folder{mirror} to start this training anew"
            )
        return None

    def _share_epochs(self, mirror: Mirror) -> None:
        """Kept epochs of the mirror are taken, those here copied: a kill may have come before."""
        local = self._files(EPOCHS)
        for epoch in mirror.names(EPOCHS):
            self._take(epoch, True)
        for path in local:
            mirror.push(path, _epoch(int(path.name.split("-")[1])), 1)

    def _take(self, name: str, mirrored: bool) -> bool:
        """Whether a file is what was written, as it is here or else in the mirror."""
        path = self.folder / name
        for fetched in (False, True) if mirrored else (False,):
            if fetched and self.mirror:
                self.mirror.fetch(name, path)
                log.info("%s is taken from the mirror %s", name, self.mirror.url)
            if not path.exists():
                continue
            if _is_intact(path):
                return True
            log.warning("%s is not what was written; it is set aside", path)
            path.replace(path.with_suffix(".torn"))
        return False

    def wait(self) -> None:
        """Until all is written and all copies in the mirror are made.

        Raises:
            OSError: it cannot be written.
        """
        self._check(self._writes)
        if self.mirror:
            self.mirror.wait()


def kept(folder: Path, epochs: Iterable[int]) -> dict[int, Path]:
    """The safetensors files of a training's kept epochs, by epoch.

    Raises:
        StateUnfit: one is not there, or not what was written.
        OSError: one cannot be read.
    """
    files = {}
    for epoch in epochs:
        path = next(folder.glob(_epoch(epoch)), None)
        if path is None or not _is_intact(path):
            raise StateUnfit(
                f"the kept weights of epoch {epoch} in {folder} are missing or not what "
                "was written: delete that folder to start this training anew"
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
    return OSError(f"{path} cannot be read ({_first(error)}): mend that and run it again")


def _first(error: Exception) -> str:
    return re.split(r"[\n.]", str(error))[0] or type(error).__name__
