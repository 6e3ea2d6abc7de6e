"""Variations of the values, each run and recorded as an experiment, in clones of their own.

The work tree at hand is not touched, so its owner goes on in it. The clones hold HEAD and share
DVC's cache: what several variations have in common is made once, what was made before is not made
again, and a run that was killed goes on. Clones take groups of variations one after the other.
"""

import itertools
import logging
import queue
import re
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
    """Check names and values of all variations.

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
        values.check_files(files, f"{folder}/", "")


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
    with run_lock.locked(FOLDER / "lock", "variations are"):
        clones = [Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(groups)))]
        work = _Work(clones, targets, len(variations))
        with ThreadPoolExecutor(len(clones)) as pool:
            futures = [pool.submit(work.run, group) for group in groups]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for clone in clones:  # their threads go on if asked again
                    threading.Thread(target=clone.stop).start()
                raise
    if work.failures:
        raise Failure("\n".join(work.failures))


class _Work:
    """``count`` variations that clones share, group by group; ``failures`` is a sentence on each
    that failed."""

    def __init__(self, clones: Sequence[Clone], targets: Sequence[str], count: int) -> None:
        self.failures: list[str] = []
        self._targets, self._count, self._done = targets, count, 0
        self._began, self._reporting = time.monotonic(), threading.Lock()
        self._idle: queue.SimpleQueue[Clone] = queue.SimpleQueue()
        for clone in clones:
            self._idle.put(clone)

    def run(self, group: Sequence[Variation]) -> None:
        """Run a group in the next clone that is idle."""
        clone = self._idle.get()
        try:
            for variation in group:
                self._run(clone, variation)
        finally:
            self._idle.put(clone)

    def _run(self, clone: Clone, variation: Variation) -> None:
        try:
            said = f"{clone.run(variation, self._targets)} stages ran"
        except Failure as error:
            said = f"failed: {error}"
            self.failures.append(f"{variation.name}: {error}")
        with self._reporting:
            clone.hand_over(variation)
            self._done += 1
            remaining = self._count - self._done
            said += f"; {self._done} of {self._count}"
            if remaining:
                left_s = (time.monotonic() - self._began) / self._done * remaining
                said += f", about {format_duration(left_s)} left"
            log.info("%s: %s", variation.name, said)
