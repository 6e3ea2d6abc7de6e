"""The device slot: who works on a GPU, or on cores of the CPU, holds a lock of it."""

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

_POLL_S = 0.1
log = logging.getLogger("albef")


@contextlib.contextmanager
def device_slot(device: str, threads: int = 0) -> Iterator[None]:
    """Hold a device while at work on it: a lock file per GPU, or one per core of the CPU.

    The kernel frees the locks when the process dies, however it dies; plain ``dvc repro``, DVC's
    queue and Prefect all pass here.

    Args:
        device: torch's name.
        threads: cores of the CPU that are used; 0 is all.
    """
    name = device.replace(":", "-")
    slots, needed = [name], 1
    if device == "cpu":
        slots = [f"cpu-{core}" for core in range(os.cpu_count() or 1)]
        needed = min(threads or len(slots), len(slots))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_lock_file(slot)) for slot in slots]
        # Whoever waits has the turn: of two that need several cores none waits with half of them.
        with _lock_file(f"{name}-turn") as turn:
            _wait([turn], 1, device)
            _wait(files, needed, device)
        yield


def _lock_file(name: str) -> IO[str]:
    path = Path(tempfile.gettempdir()) / f"albef-{os.getuid()}-{name}.slot"
    file = path.open("a+")
    os.chmod(path, 0o600)
    return file


def _wait(files: Sequence[IO[str]], needed: int, device: str) -> None:
    """Lock some of the files, as they become free."""
    free, told = list(files), False
    while len(files) - len(free) < needed:
        for file in list(free):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.seek(0)
                file.truncate()
                file.write(str(os.getpid()))
                file.flush()
                free.remove(file)
                if len(files) - len(free) == needed:
                    return
        if not told:
            free[0].seek(0)
            log.info(
                "waiting for %s: process %s works on it", device, free[0].read().strip() or "?"
            )
            told = True
        time.sleep(_POLL_S)
