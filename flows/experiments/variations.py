"""Variations of the values, each run and recorded as an experiment, in clones of their own.

The work tree at hand is not touched, so its owner goes on in it. The clones hold HEAD and share
DVC's cache: what several variations have in common is made once, what was made before is not made
again, and a run that was killed goes on. Clones take groups of variations one after the other.
"""

import itertools
import logging
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from albef.config import ParamsError
from albef.layout import PARAMS
from albef.report.wording import format_duration
from flows import git, run_lock, values
from flows.experiments.clone import Clone, Failure, Variation
from flows.graph import LOCK

FOLDER = Path(".dvc/tmp/variations")
"""Where the clones are, and the lock of whoever works in them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
log = logging.getLogger("albef")


def check(variations: Sequence[Variation]) -> None:
    """Check names and values of all variations, in one process: their classes import torch.

    Raises:
        ParamsError: a sentence for every wrong value, or what is no name.
    """
    for variation in variations:
        if not NAME.fullmatch(variation.name):
            raise ParamsError(
                f"{variation.name} cannot name an experiment: use letters, digits, . _ and -"
            )
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for variation in variations:
            files.append(Path(folder) / f"{variation.name}.yaml")
            files[-1].write_text(variation.params)
        command = [sys.executable, "-m", "pipelines.params", *map(str, files)]
        completed = subprocess.run(command, capture_output=True, text=True)
        if completed.returncode:
            raise ParamsError(completed.stderr.replace(f"{folder}{os.sep}", "").strip())


def clean() -> str:
    """HEAD, once it is known to hold all code; values and products are not looked at.

    Raises:
        ParamsError: there is no commit, git does not know who commits, or files are not as in it.
    """
    root = values.layout().root
    reasons = list(git.uncommitted([], excluded=[PARAMS, LOCK, root / "metrics", root / "runs"]))
    if reasons:
        raise ParamsError(
            "variations run in a clone of the last commit and are recorded beside it, but "
            + "; ".join(reasons)
        )
    return git.git("rev-parse", "HEAD")


def run(
    variations: Sequence[Variation], targets: Sequence[str], jobs: int, lock: str | None = None
) -> None:
    """Run variations of HEAD in order and record each as an experiment.

    Args:
        variations: each brings the targets, with all that they depend on, up to date.
        targets: stages.
        jobs: clones that work at the same time.
        lock: text of a dvc.lock whose products are at hand; None is that of the commit.

    Raises:
        ParamsError: a wrong value, or code that is not committed.
        Busy: variations are at work here already.
        Failure: some failed; the others ran.
    """
    commit = clean()
    check(variations)
    groups = [[*found] for _, found in itertools.groupby(variations, lambda it: it.group)]
    failures: list[str] = []
    reporting, ended, began = threading.Lock(), itertools.count(1), time.monotonic()

    def work(group: Sequence[Variation]) -> None:
        clone = idle.get()
        try:
            for variation in group:
                said = try_in(clone, variation)
                with reporting:
                    clone.hand_over(variation)
                    done = next(ended)
                    left = (time.monotonic() - began) / done * (len(variations) - done)
                    log.info("%s: %s; %d of %d%s", variation.name, said, done, len(variations),
                             f", about {format_duration(left)} left" if left else "")  # fmt: skip
        finally:
            idle.put(clone)

    def try_in(clone: Clone, variation: Variation) -> str:
        try:
            return f"{clone.run(variation, targets)} stages ran"
        except Failure as error:
            failures.append(f"{variation.name}: {error}")
            return f"failed: {error}"

    with run_lock.locked(FOLDER / "lock", "variations are"):
        clones = [Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(groups)))]
        idle: queue.SimpleQueue[Clone] = queue.SimpleQueue()
        for clone in clones:
            idle.put(clone)
        with ThreadPoolExecutor(len(clones)) as pool:
            futures = [pool.submit(work, group) for group in groups]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for clone in clones:  # their threads go on if asked again
                    threading.Thread(target=clone.stop).start()
                raise
    if failures:
        raise Failure("\n".join(failures))
