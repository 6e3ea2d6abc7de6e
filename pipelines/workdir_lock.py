"""A folder of work in progress that one process at a time has to itself."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

log = logging.getLogger("albef")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """Hold a folder for this process; another one that wants it waits.

    The kernel frees it when the process dies, however it dies. What was left there is gone on with.
    """
    path = folder.with_name(folder.name + ".lock")
    with _locked(path):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        if not folder.exists():  # the work is done
            path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    while True:
        with path.open("a") as file:
            _take(file, path)
            if _is_there(file, path):  # else the one before finished and removed it
                yield
                return


def _take(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("waiting for another process that works on %s", path.with_suffix(""))
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
