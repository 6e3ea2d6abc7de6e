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


def varied(text: str, overrides: Sequence[str], where: str) -> str:
    """The text of a params file with values changed, ``key=value``; errors name ``where``.

    Raises:
        ParamsError: a key that it lacks.
    """
    if not overrides:
        return text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(text)
        values.override(path, overrides, where)
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
    variations: Sequence[Variation],
    commit: str,
    targets: Sequence[str],
    jobs: int,
    on_end: Callable[[Variation, Outcome], None],
    lock: str | None = None,
) -> None:
    """Run variations in order and record each as an experiment.

    Args:
        variations: each brings the targets, with all that they depend on, up to date.
        commit: of the code.
        targets: stages.
        jobs: clones that work at the same time.
        on_end: told of each as it ends, one at a time.
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
        clones = [Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(groups)))]
        with ThreadPoolExecutor(max(1, len(clones))) as pool:
            futures = [pool.submit(work.run, clone, targets, on_end) for clone in clones]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                work.stop()
                for clone in clones:  # their threads go on if asked again
                    threading.Thread(target=clone.stop).start()
                raise
    if work.failures:
        raise Failure("\n".join(work.failures))


class _Work:
    """Groups that wait for a clone; ``failed`` are sentences on variations."""

    def __init__(self, groups: list[list[Variation]]) -> None:
        self._groups = groups
        self._busy: list[str] = []
        self._changed = threading.Condition()
        self._reporting = threading.Lock()
        self.failures: list[str] = []

    def _next_group(self) -> list[Variation] | None:
        """The next group whose data nobody is making."""
        return next((g for g in self._groups if not g[0].data or g[0].data not in self._busy), None)

    def stop(self) -> None:
        """Give out no more."""
        with self._changed:
            self._groups = []
            self._changed.notify_all()

    def run(
        self, clone: Clone, targets: Sequence[str], on_end: Callable[[Variation, Outcome], None]
    ) -> None:
        """Work in a clone until nothing waits."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._groups or self._next_group())
                if not (group := self._next_group()):
                    return
                self._groups.remove(group)
                self._busy.append(group[0].data)
            try:
                for variation in group:
                    self._run(clone, variation, targets, on_end)
            finally:
                with self._changed:
                    self._busy.remove(group[0].data)
                    self._changed.notify_all()

    def _run(
        self,
        clone: Clone,
        variation: Variation,
        targets: Sequence[str],
        on_end: Callable[[Variation, Outcome], None],
    ) -> None:
        try:
            outcome = clone.run(variation, targets)
        except Failure as error:
            with self._reporting:
                self.failures.append(f"{variation.name}: {error}")
                log.info("%s failed: %s", variation.name, error)
        else:
            with self._reporting:
                clone.hand_over(variation)
                on_end(variation, outcome)
