"""The search of a run in the report: its trials, and the evidence for its choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from albef.io import read_json
from albef.layout import Layout

Trial = Mapping[str, Any]
"""A row of ``trials.json`` (:func:`albef.search.summary.rows`), with ``chosen`` added."""


@dataclass(frozen=True)
class Search:
    """The search of a run; ``note`` describes what is missing."""

    run: str
    choice: Mapping[str, float] = field(default_factory=dict)
    """Chosen values."""
    trials: Sequence[Trial] = ()
    """Trials in order; empty if no value has a range."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Evidence for the choice, as the search wrote it."""
    note: str = ""


def read(layout: Layout, run: str) -> Search:
    """Return the search of a run."""
    folder = layout.search(run)
    choice = read_json(folder / "choice.json")
    if choice is None:
        return Search(run, note=f"This run has not been searched yet: {folder} is missing.")
    stored = read_json(folder / "trials.json") or {}
    trials = [{"error": "", **trial, "chosen": False} for trial in stored.get("trials", [])]
    for trial in trials:
        if trial["value"] is not None and trial["params"] == choice:
            trial["chosen"] = True
            break
    return Search(run, choice, trials, stored.get("evidence", {}))
