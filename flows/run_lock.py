"""Lock that allows one run at a time in a clone. The kernel frees it when the process ends."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from albef.io import holder_of, lock

PATH = Path(".dvc/tmp/albef-run.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
"""DVC's list of the paths that its processes read and write."""
INHERITED = "ALBEF_RUN_LOCK"
"""Environment variable of a child that has inherited its parent's lock."""
_lock_file: IO[str] | None = None
_shared = bool(os.environ.pop(INHERITED, None))


class RunInProgressError(ValueError):
    """Error: another run is in progress in this clone."""


@contextlib.contextmanager
def acquire() -> Iterator[None]:
    """Hold the lock of this clone. A holder, or its child that inherited the lock, shares it.

    Raises:
        RunInProgressError: another process holds the lock. The message contains its id.
    """
    global _lock_file
    if _shared or _lock_file is not None:
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
    """Return the descriptor of the held lock's file, for a child with :data:`INHERITED` set."""
    assert _lock_file is not None, "acquire() comes first"
    return _lock_file.fileno()


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
        infos: list[Any] = []
        with contextlib.suppress(ValueError, AttributeError):  # It was being written.
            used = json.loads(RWLOCK.read_text())
            readers = itertools.chain(*used.get("read", {}).values())
            infos = [*used.get("write", {}).values(), *readers]
        if not any(map(is_dvc, infos)):
            RWLOCK.unlink()


def is_dvc(info: Mapping[str, Any]) -> bool:
    """Return whether an entry of :data:`RWLOCK` is of a live DVC process."""
    # Another process may have the id of a dead one by now, especially in a container.
    with contextlib.suppress(psutil.Error):
        line = " ".join(psutil.Process(info["pid"]).cmdline())
        return "dvc" in line or "flows" in line
    return False
