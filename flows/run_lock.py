"""Lock that allows one run at a time in a clone. The kernel frees it when the process ends."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from albef.io import holder_of, lock

PATH = Path(".dvc/tmp/albef-run.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
"""DVC's list of the paths that its processes read and write."""
_lock_file: IO[str] | None = None
_is_inherited = False


class RunInProgressError(ValueError):
    """Error: another run is in progress in this clone."""


@contextlib.contextmanager
def acquire() -> Iterator[None]:
    """Hold the lock of this clone. A holder, or its child after :func:`inherit`, shares it.

    Raises:
        RunInProgressError: another process holds the lock. The message contains its id.
    """
    global _lock_file
    if _is_inherited or _lock_file is not None:
        yield
        return
    with locked(PATH, "a run is") as _lock_file:
        _remove_stale_rwlock()
        try:
            yield
        finally:
            _lock_file = None


@contextlib.contextmanager
def locked(path: Path, subject: str) -> Iterator[IO[str]]:
    """Hold a lock file without waiting for it.

    Raises:
        RunInProgressError: another process holds the lock; ``subject`` begins the error message.
    """

    def refuse(holder: str) -> None:
        raise RunInProgressError(
            f"{subject} already in progress in this clone (process {holder}); wait for it, or "
            "stop that process"
        )

    with lock(path, refuse) as file:
        yield file


def descriptor() -> int:
    """Return the descriptor of the held lock's file, for a child that calls :func:`inherit`."""
    assert _lock_file is not None, "acquire() comes first"
    return _lock_file.fileno()


def inherit() -> None:
    """Share the lock of the parent process, whose descriptor this process has."""
    global _is_inherited
    _is_inherited = True


def holder() -> int | None:
    """Return the id of the process that currently runs the pipeline in this clone, or None."""
    number = holder_of(PATH) or ""
    return int(number) if number.isdigit() else None


def _remove_stale_rwlock() -> None:
    """Remove DVC's list of used paths if it belongs to a killed process, so that DVC can start."""
    from dvc.lock import LockError, make_lock

    if not RWLOCK.exists():
        return
    with contextlib.suppress(LockError), make_lock(f"{RWLOCK}.lock", tmp_dir=str(RWLOCK.parent)):
        # It is not whole JSON if the process was killed while it wrote it.
        if not any(is_dvc(int(pid)) for pid in re.findall(r'"pid": (\d+)', RWLOCK.read_text())):
            RWLOCK.unlink()


def is_dvc(pid: int) -> bool:
    """Return whether a process of :data:`RWLOCK` is a live DVC process."""
    # Another process may have the id of a dead one by now, especially in a container.
    with contextlib.suppress(psutil.Error):
        line = " ".join(psutil.Process(pid).cmdline())
        return "dvc" in line or "flows" in line
    return False
