"""Variations of the values, each run in a clone and recorded as an experiment.

The work tree is not touched, so you can continue to work in it. The clones hold HEAD and share
DVC's cache, so artifacts that several variations share are computed once. A run that was killed
resumes. Each clone takes one group of variations after the other.
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
from flows.experiments.clone import Clone, CloneError, Variation
from flows.graph import LOCK

FOLDER = Path(".dvc/tmp/variations")
"""Folder of the clones, and of the lock that protects them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
log = logging.getLogger("albef")


def check(variations: Sequence[Variation]) -> None:
    """Check names and values of all variations.

    Raises:
        ParamsError: a name or a value is wrong; there is one error message for each.
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
    """Return HEAD after checking that all code is committed. Values and artifacts are not checked.

    Raises:
        ParamsError: git has no commit or no committer, or files differ from HEAD.
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
        variations: variations to run. Each brings the targets and all they depend on up to date.
        targets: names of stages.
        jobs: number of clones that work at the same time.
        lock: text of a dvc.lock whose artifacts are available; None takes that of the commit.

    Raises:
        ParamsError: a value is wrong, or code is not committed.
        Busy: another process already runs variations in this project.
        Failure: some variations failed; the others ran.
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
                # Stop in threads, which continue even if a second interrupt arrives.
                for clone in clones:
                    threading.Thread(target=clone.stop).start()
                raise
    if work.failures:
        raise CloneError("\n".join(work.failures))


class _Work:
    """``count`` variations that clones share, group by group.

    ``failures`` has an error message for each variation that failed.
    """

    def __init__(self, clones: Sequence[Clone], targets: Sequence[str], count: int) -> None:
        self.failures: list[str] = []
        self._targets, self._count, self._done = targets, count, 0
        self._began, self._reporting = time.monotonic(), threading.Lock()
        self._idle: queue.SimpleQueue[Clone] = queue.SimpleQueue()
        for clone in clones:
            self._idle.put(clone)

    def run(self, group: Sequence[Variation]) -> None:
        """Run a group in the next idle clone."""
        clone = self._idle.get()
        try:
            for variation in group:
                self._run(clone, variation)
        finally:
            self._idle.put(clone)

    def _run(self, clone: Clone, variation: Variation) -> None:
        try:
            said = f"{clone.run(variation, self._targets)} stages ran"
        except CloneError as error:
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
