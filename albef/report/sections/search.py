"""The search of a run in the report: its trials, and the evidence for its choice."""

from collections.abc import Iterator, Mapping, Sequence
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


def describe_evidence(search: Search) -> Iterator[str]:
    """Yield the evidence for the choice as sentences."""
    evidence = search.evidence
    if not evidence:
        return
    counts = evidence["trials"]
    states = {"complete": "complete", "pruned": "stopped early", "fail": "failed"}
    yield f"{', '.join(f'{counts[key]} {word}' for key, word in states.items() if counts[key])}."
    metric, value, start = evidence["metric"], evidence["value"], evidence["start"]
    if start is None:
        yield f"The best trial has {metric} {value:.2f}; the start values have no result."
    elif evidence["chosen"]["start"]:
        yield f"The start values are best, with {metric} {value:.2f}."
    else:
        gain = f"{evidence['gain']:+.2f} compared with the start values ({start:.2f})"
        yield f"The best trial has {metric} {value:.2f}, {gain}."
    if len(evidence["best"]) > 1:
        yield f"The best {len(evidence['best'])} trials differ by at most {evidence['spread']:.2f}."
