"""Variations of the values, each run in a clone and recorded as an experiment.

The work tree is not touched, so you can continue to work in it. The clones hold HEAD and share
DVC's cache, so artifacts that several variations share are computed once. A run that was killed
resumes.
"""

import itertools
import logging
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
from flows.run import check_name

FOLDER = Path(".dvc/tmp/variations")
"""Folder of the clones, and of the lock that protects them."""
log = logging.getLogger("albef")


def check(variations: Sequence[Variation]) -> None:
    """Check names and values of all variations.

    Raises:
        ParamsError: a name or a value is wrong; there is one error message for each.
    """
    for variation in variations:
        check_name(variation.name)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{variation.name}.yaml" for variation in variations]
        for file, variation in zip(files, variations, strict=True):
            file.write_text(variation.params)
        values.check_files(files, f"{folder}/", "")


def clean() -> str:
    """Return HEAD after checking that all code is committed. Values and artifacts are not checked.

    Raises:
        ParamsError: git has no commit or no committer, or files differ from HEAD.
    """
    root = values.layout().root
    reasons = list(git.uncommitted([], excluded=[PARAMS, LOCK, root / "metrics", root / "runs"]))
    if reasons:
        raise ParamsError(f"experiments run in a clone of the last commit; {'; '.join(reasons)}")
    return git.git("rev-parse", "HEAD")


def run(
    series: Sequence[Sequence[Variation]],
    targets: Sequence[str],
    jobs: int,
    lock: str | None = None,
) -> None:
    """Run variations of HEAD and record each as an experiment.

    Args:
        series: variations to run. Those of a series run one after another, in one clone.
        targets: names of the stages that each brings up to date, with all they depend on.
        jobs: number of clones that work at the same time.
        lock: text of a dvc.lock whose artifacts are available; None takes that of the commit.

    Raises:
        ParamsError: a value is wrong, or code is not committed.
        RunInProgressError: another process already runs variations in this project.
        CloneError: some variations failed; the others ran.
    """
    commit, count = clean(), sum(map(len, series))
    check([*itertools.chain(*series)])
    waiting, failures = iter(series), list[str]()  # Each clone takes the next series.
    began, numbers, reporting = time.monotonic(), itertools.count(1), threading.Lock()

    def work(clone: Clone) -> None:
        for variation in itertools.chain.from_iterable(waiting):
            try:
                outcome = f"{clone.run(variation, targets)} stages ran"
            except CloneError as error:
                outcome = f"failed: {error}"
                failures.append(f"{variation.name}: {error}")
            with reporting:
                clone.hand_over(variation)
                done = next(numbers)
                left_s = (time.monotonic() - began) / done * (count - done)
                left = f", about {format_duration(left_s)} left" if done < count else ""
                log.info("%s: %s; %d of %d%s", variation.name, outcome, done, count, left)

    with run_lock.locked(FOLDER / "lock", "experiments are"):
        clones = [Clone(FOLDER / f"clone-{n}", commit, lock) for n in range(min(jobs, len(series)))]
        with ThreadPoolExecutor(len(clones)) as pool:
            futures = [pool.submit(work, clone) for clone in clones]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                # Stop in threads, which continue even if a second interrupt arrives.
                for clone in clones:
                    threading.Thread(target=clone.stop).start()
                raise
    if failures:
        raise CloneError("\n".join(failures))
