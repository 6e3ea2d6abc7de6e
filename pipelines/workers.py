"""The workers of a search: processes of one machine that run trials side by side.

The stage that DVC started holds the device; its workers share it, the threads of a processor
divided among them. One that dies leaves its trial to the others.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from pipelines.device_lock import device_slot
from pipelines.launch import handing_on, tell
from pipelines.stage import RANKS, WORKER, WORKERS, Stage
from pipelines.trainer import device_of

MIRROR_EVERY = 30.0
"""Seconds between two copies of the journal."""
log = logging.getLogger("albef")


def work(stage: Stage, mirror: Callable[[], None], complete: Callable[[], bool]) -> None:
    """Run the stage's workers until all have ended.

    Args:
        stage: the running stage.
        mirror: copies the journal.
        complete: whether the search has all its trials.

    Raises:
        ValueError: as the first worker that was refused something.
        OSError: they died before the search was complete.
        KeyboardInterrupt: they were asked to stop, and saved their states.
    """
    count = stage.runtime.search_workers
    told = stage.scratch("workers")
    command = [sys.executable, "-m", f"pipelines.{stage.name}", stage.key]
    try:
        with device_slot(str(device_of(stage)), stage.runtime.threads):
            workers = [
                subprocess.Popen(
                    command,
                    env=os.environ
                    | {RANKS: str(told.resolve()), WORKER: str(number), WORKERS: str(count)}
                    | {"DVC_STAGE": stage.address, "ALBEF_DVC": str(os.getpid())},
                    start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
                )
                for number in range(count)
            ]
            with handing_on(workers):
                died = _wait(workers, mirror)
        if not complete():
            tell(told, died or "a worker of the search died")
    finally:
        shutil.rmtree(told)


def _wait(workers: Sequence[subprocess.Popen[bytes]], mirror: Callable[[], None]) -> str:
    """Wait for all of them, and say at once which one dies; the first one's end, or ""."""
    died = ""
    running = dict(enumerate(workers, 1))
    copied = time.monotonic()
    while running:
        for number, worker in list(running.items()):
            if (code := worker.poll()) is None:
                continue
            del running[number]
            if code < 0:
                how = f"worker {number} of the search died ({signal.Signals(-code).name})"
                log.warning("%s; its trial is tried again", how)
                died = died or how
        if time.monotonic() - copied > MIRROR_EVERY or not running:
            copied = time.monotonic()
            mirror()
        time.sleep(0.2)
    return died
