"""Curves, log and progress of a training.

The curves, written with dvclive, never depend on time. Values that do go to a JSON-lines log.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dvclive import Live

from albef.trackers import Trackers

LINE_EVERY = 10.0
"""Seconds between two lines of progress."""
log = logging.getLogger(__name__)

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Progress callback: called after each step with the step, the total and the last means."""


class Tracker:
    """Writer of ``plots/metrics/**.tsv`` (step, value) and ``metrics.json`` in a folder."""

    def __init__(
        self, folder: Path, files: Mapping[str, str], trackers: Trackers | None = None
    ) -> None:
        """Continue the files of a training checkpoint; later points are removed.

        ``trackers`` get the same points.
        """
        self._trackers = trackers
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self._folder = folder
        self._live = Live(
            str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=bool(files)
        )
        if (repo := self._live._dvc_repo) is not None:
            repo.close()  # dvclive opens git's packs and leaves them open

    def files(self) -> dict[str, str]:
        """Return the contents of all files so far, by path."""
        paths = (path for path in sorted(self._folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(self._folder)): path.read_text() for path in paths}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()
        if self._trackers:
            self._trackers.log(step, values)

    def close(self) -> None:
        """Finish the files."""
        self._live.end()


def append_log(path: Path, **values: object) -> None:
    """Add a line to a log; ``time`` is in seconds since 1970."""
    with path.open("a") as file:
        file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")


def progress(label: str) -> Progress:
    """Return a callback that logs the progress of a training every few seconds."""
    start: tuple[float, int] | None = None
    last = 0.0

    def show(step: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal start, last
        now = time.monotonic()
        start = start or (now, step)
        if step < total and now - last < LINE_EVERY:
            return
        last = now
        rate = (step - start[1]) / (now - start[0]) if step > start[1] else 0.0
        left = f", {(total - step) / rate:.0f} s left" if rate else ""
        means = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        log.info("%s: step %d of %d, %.2f steps/s%s  %s", label, step, total, rate, left, means)

    return show
