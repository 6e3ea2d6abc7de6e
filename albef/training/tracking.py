"""Curves through dvclive: what is logged is a function of the experiment, never of time.

What does depend on time goes to a log beside them, as JSON lines.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from dvclive import Live


class Tracker:
    """Writes ``plots/metrics/**.tsv`` (step, value) and ``metrics.json`` in a folder."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        """Go on from the files of a saved state; what was written after it is cut."""
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
            repo.close()  # dvclive opens git's packs to read where it is, and leaves them open

    def files(self) -> dict[str, str]:
        """What is written so far, by path."""
        found = (path for path in sorted(self._folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(self._folder)): path.read_text() for path in found}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        """Finish the files."""
        self._live.end()


class Log:
    """JSON lines, one a point of the curves; a training that goes on adds to its file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **values: object) -> None:
        """Add a line; ``time`` is in seconds since 1970."""
        with self._path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")
