"""Device of a stage, and locks for exclusive use of it: a GPU, or cores of the CPU."""

import contextlib
import ctypes
import functools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from albef.io import LockedError, lock
from pipelines.stage import Stage

_POLL_S = 0.1
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt in glibc
log = logging.getLogger("albef")


def device_of(stage: Stage) -> torch.device:
    """Return the device that ``runtime`` names, after setting threads and determinism.

    ``auto`` takes a GPU if there is one.
    """
    if stage.runtime.deterministic:
        # This must be set before CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if stage.runtime.threads:
        torch.set_num_threads(stage.runtime.threads)
    name = stage.runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"runtime.device is {name}, but torch finds no GPU; use auto or cpu")
    return device


def _keep_freed_memory() -> None:
    """Keep the memory of freed tensors for the next ones of this process.

    By default, glibc returns large blocks to the system, which clears them before they are used
    again, in each step of a training. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 2**25)  # the maximum, 32 MiB
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def held_device(stage: Stage) -> Iterator[torch.device]:
    """Hold the stage's device and yield it; count the time for the run record."""
    device = device_of(stage)
    gpus = int(device.type == "cuda")
    with device_slot(str(device), stage.runtime.threads), stage.cost.holding(gpus):
        yield device


@contextlib.contextmanager
def device_slot(device: str, threads: int = 0) -> Iterator[None]:
    """Hold a device with a lock file per GPU, or one per CPU core: ``threads`` cores, 0 means all.

    The kernel frees the locks when the process ends in any way. Plain ``dvc repro``, DVC's queue
    and Prefect all use these locks.
    """
    name = device.replace(":", "-")
    names = [f"cpu-{core}" for core in range(os.cpu_count() or 1)] if device == "cpu" else [name]
    slots, needed = list(map(_file, names)), min(threads or len(names), len(names))
    report = functools.cache(functools.partial(log.info, "waiting for %s: process %s uses it"))
    with contextlib.ExitStack() as held:
        # Only one waiting process at a time collects cores. Otherwise two could each hold half of
        # them and wait for the rest.
        with lock(_file(f"{name}-turn"), functools.partial(report, device)):
            while needed:
                for slot in slots:
                    try:
                        held.enter_context(lock(slot))
                    except LockedError as busy:
                        holder = busy.holder
                    else:
                        slots.remove(slot)
                        needed -= 1
                        break
                else:
                    report(device, holder)
                    time.sleep(_POLL_S)
        yield


def _file(slot: str) -> Path:
    """Return the lock file of a slot, in a folder that no other user can write to."""
    folder = Path(tempfile.gettempdir()) / f"albef-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(
            f"{folder}, the folder of device locks, is a link or belongs to another user; remove "
            "it, or set TMPDIR to a folder of yours"
        )
    return folder / f"{slot}.slot"
