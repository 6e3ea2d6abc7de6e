"""Curves through dvclive: what is logged is a function of the experiment, never of time."""

from collections.abc import Mapping
from pathlib import Path

from dvclive import Live


class Tracker:
    """Writes ``plots/metrics/**.tsv`` (step, value) and ``metrics.json`` in a folder."""

    def __init__(self, folder: Path, start_step: int) -> None:
        """Go on at ``start_step``: rows from there on, of a run that was killed, are cut."""
        for path in (folder / "plots").rglob("*.tsv"):
            header, *rows = path.read_text().splitlines(keepends=True)
            kept = [row for row in rows if int(row.split("\t", 1)[0]) < start_step]
            path.write_text("".join([header, *kept]))
        self._live = Live(
            str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=start_step > 0
        )
        if (repo := self._live._dvc_repo) is not None:
            repo.close()  # dvclive opens git's packs to read where it is, and leaves them open

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        """Finish the files."""
        self._live.end()
