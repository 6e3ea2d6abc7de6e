"""Trackers beside dvclive: a file for each tool, imported only if ``runtime.trackers`` names it.

No artifact depends on a tracker: a tool that fails is reported once and then left out.
"""

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from albef.config import flatten
from albef.io import first_line
from albef.layout import Layout

EXPERIMENT = "ALBEF_EXPERIMENT"
"""Environment variable with the name of the experiment that ``albef run --name`` records."""
PROJECT = "albef"
"""Name under which a tool files the runs, unless its own environment variable sets another."""
IDS = "trackers.json"
"""File beside the training checkpoints with the id of each tool's run."""
log = logging.getLogger("albef")


@dataclass(frozen=True)
class Run:
    """A training as trackers show it."""

    name: str
    """Experiment, if it has a name, and address of the training."""
    values: Mapping[str, str]
    """Values of the training by their dotted keys."""
    links: Mapping[str, str]
    """Places of its checkpoint, report and export."""
    folder: Path
    """Folder for tools that write files."""


def training(layout: Layout, address: str, seed: int, values: Mapping[str, Any]) -> Run:
    """Return the training of the stage ``address``, with its values."""
    key = address.partition("@")[2]
    places = {"checkpoint": layout.model(key or "pretrained"), "report": layout.report()}
    if key:
        places["export"] = layout.export(key)
    leaves = flatten({"seed": seed, **values})
    return Run(
        " ".join(filter(None, [os.environ.get(EXPERIMENT), address])),
        {key: leaf if isinstance(leaf, str) else json.dumps(leaf) for key, leaf in leaves},
        {name: str(path.absolute()) for name, path in places.items()},
        layout.root / "trackers",
    )


class Tracker(Protocol):
    """Run of one tool; the class ``Tracker`` in the tool's file."""

    id: str
    """Id with which a later process continues the run."""

    def __init__(self, run: Run, id: str | None) -> None:
        """Start a run with its values and links, or continue the run ``id``."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Set the final metrics and end the run."""


class Trackers:
    """Runs of all named tools; their calls are made one after the other in a thread.

    ``ids`` are those of the runs, with which a later process continues them.
    """

    def __init__(self, names: Sequence[str], run: Run, ids: Mapping[str, str]) -> None:
        self.ids: dict[str, str] = {}
        self._runs: dict[str, Tracker] = {}
        self._failed: set[str] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trackers")
        for name in names:
            self._attempt(name, self._start, run, ids.get(name))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, without waiting for the tools."""
        for name in self._runs:
            self._pool.submit(self._attempt, name, lambda it: self._runs[it].log(step, values))

    def finish(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Set the final metrics and end the runs, after all points are written; return the ids."""
        for name in self._runs:
            self._pool.submit(self._attempt, name, lambda it: self._runs[it].finish(metrics))
        self._pool.shutdown()
        return self.ids

    def _start(self, name: str, run: Run, id: str | None) -> None:
        self._runs[name] = importlib.import_module(f"{__name__}.{name}").Tracker(run, id)
        self.ids[name] = self._runs[name].id

    def _attempt(self, name: str, call: Callable[..., None], *args: Any) -> None:
        """Call a function for a tool, unless the tool has failed before."""
        if name in self._failed:
            return
        try:
            call(name, *args)
        except Exception as error:  # Each tool has errors of its own.
            self._failed.add(name)
            log.warning(
                "%s cannot be reached (%s); the run continues without it", name, first_line(error)
            )
