"""Variations of the values, each run and recorded as an experiment, in clones of their own.

The work tree at hand is not touched, so its owner goes on in it. The clones hold HEAD and share
DVC's cache: what several variations have in common is made once, what was made before is not made
again, and a run that was killed goes on. Clones take groups of variations one after the other; two
groups whose data are the same never run at once, as both would make them.
"""

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from albef.config import ParamsError
from albef.layout import PARAMS
from flows import git, run_lock, values
from flows.experiments.clone import Clone, Failure, Outcome, Variation
from flows.graph import LOCK

FOLDER = Path(".dvc/tmp/variations")
"""Where the clones are, and the lock of whoever works in them."""
log = logging.getLogger("albef")


def varied(preset: Path, overrides: Sequence[str], where: str) -> str:
    """The text of a params file with values changed, ``key=value``; errors name ``where``.

    Raises:
        ParamsError: a key that it lacks.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(values.compose(preset))
        if overrides:
            values.override(path, list(overrides), where)
        return path.read_text()


def check(variations: Sequence[Variation]) -> None:
    """Check the values of all variations, in one process: their classes import torch.

    Raises:
        ParamsError: a sentence for every wrong value.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for variation in variations:
            files.append(Path(folder) / f"{variation.name}.yaml")
            files[-1].write_text(variation.params)
        command = [sys.executable, "-m", "pipelines.params", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ParamsError(done.stderr.replace(f"{folder}{os.sep}", "").strip())


def clean() -> str:
    """HEAD, once it is known to hold all code; values and products are not looked at.

    Raises:
        ParamsError: there is no commit, git does not know who commits, or files are not as in it.
    """
    root = values.layout().root
    reasons = list(git.uncommitted([], apart=[PARAMS, LOCK, root / "metrics", root / "runs"]))
    if reasons:
        raise ParamsError(
            "variations run in a clone of the last commit and are recorded beside it, but "
            + "; ".join(reasons)
        )
    return git.git("rev-parse", "HEAD")


def run(
    variations: Sequence[Variation],
    commit: str,
    targets: Sequence[str],
    jobs: int,
    done: Callable[[Variation, Outcome], None],
    lock: str | None = None,
) -> None:
    """Run variations and record each as an experiment.

    Args:
        variations: in the order to run them.
        commit: of the code.
        targets: stages that are wanted, with all that they depend on.
        jobs: clones that work at the same time.
        done: told of each as it ends, one at a time.
        lock: text of a dvc.lock whose products are at hand; None is that of the commit.

    Raises:
        Busy: variations are at work here already.
        Failure: some failed; the others ran.
    """
    groups: dict[str, list[Variation]] = {}
    for variation in variations:
        groups.setdefault(variation.group, []).append(variation)
    work = _Work([*groups.values()])
    with run_lock.locked(FOLDER / "lock", "variations are"):
        crew = [Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(groups)))]
        with ThreadPoolExecutor(max(1, len(crew))) as pool:
            futures = [pool.submit(_labour, clone, work, targets, done) for clone in crew]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                work.stop()
                for clone in crew:  # their threads go on if asked again
                    threading.Thread(target=clone.stop).start()
                raise
    if work.failed:
        raise Failure("\n".join(work.failed))


class _Work:
    """Groups that wait for a clone."""

    def __init__(self, groups: list[list[Variation]]) -> None:
        self._groups = groups
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self.failed: list[str] = []
        self.report_lock = threading.Lock()

    def take(self) -> list[Variation] | None:
        """The next group whose data nobody is making; None when there is no more."""
        with self._changed:
            while self._groups:
                free = next((g for g in self._groups if g[0].data not in self._busy), None)
                if free is not None:
                    self._groups.remove(free)
                    self._busy.add(free[0].data)
                    return free
                self._changed.wait()
            return None

    def give_back(self, group: list[Variation]) -> None:
        """A group is done."""
        with self._changed:
            self._busy.discard(group[0].data)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give out no more."""
        with self._changed:
            self._groups = []
            self._changed.notify_all()


def _labour(
    clone: "Clone",
    work: _Work,
    targets: Sequence[str],
    done: Callable[[Variation, Outcome], None],
) -> None:
    while group := work.take():
        try:
            for variation in group:
                try:
                    outcome = clone.run(variation, targets)
                except Failure as error:
                    with work.report_lock:
                        work.failed.append(f"{variation.name}: {error}")
                        log.info("%s failed: %s", variation.name, error)
                    continue
                with work.report_lock:
                    clone.hand_over(variation)
                    done(variation, outcome)
        finally:
            work.give_back(group)
