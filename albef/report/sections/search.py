"""The search of a run in the report: history and slices of its trials."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from albef.io import read_json
from albef.layout import Layout
from albef.report.figures import Chart, Dot, Line, Point
from albef.report.wording import format_number

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
    scales: Mapping[str, bool] = field(default_factory=dict)
    """True for each searched value that is drawn on a logarithmic scale."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Evidence for the choice, as the search wrote it."""
    note: str = ""

    @property
    def complete(self) -> list[Trial]:
        """Return the trials that have a score."""
        return [trial for trial in self.trials if trial["value"] is not None]


def read(layout: Layout, run: str, values: Mapping[str, Any]) -> Search:
    """Return the search of a run; ``values`` are the run's values, ranges included."""
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
    ranges = {n: v for n, v in values.items() if isinstance(v, Mapping) and "low" in v}
    scales = {name: bool(value.get("log")) for name, value in ranges.items()}
    return Search(run, choice, trials, scales, stored.get("evidence", {}))


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


def draw_trials(search: Search) -> Iterator[Chart]:
    """Yield the history and a slice for each range, if any trial has a score."""
    if search.complete:
        yield _history(search)
        yield from (_slice(search, name) for name in search.choice)


def _history(search: Search) -> Chart:
    best: list[Point] = []
    for trial in search.complete:
        score = max(trial["value"], best[-1][1]) if best else trial["value"]
        best.append((trial["number"] + 1.0, score))
    dots = [_dot(trial, trial["number"] + 1.0, trial["value"]) for trial in search.complete]
    legend = (*_legend(dots), ("best so far", "c0"))
    return Chart("Score by trial", "", legend, "trial", [Line("", best, 0)], dots)


def _slice(search: Search, name: str) -> Chart:
    """Return scores by a value; trials stopped early are hollow, with their last epoch's score."""
    stopped = [t for t in search.trials if t["value"] is None and t["values"] and not t["error"]]
    dots = [_dot(trial, trial["params"][name], trial["value"], name) for trial in search.complete]
    dots += [_dot(trial, trial["params"][name], trial["values"][-1], name) for trial in stopped]
    log_x = search.scales.get(name, False) and all(dot.x > 0 for dot in dots)
    return Chart(f"Score by {name}", "", _legend(dots), name, dots=dots, log_x=log_x)


def _dot(trial: Trial, x: float, y: float, name: str = "") -> Dot:
    css = {"chosen": trial["chosen"], "start": trial["start"], "stopped": trial["value"] is None}
    at = f"{name} {format_number(x)}, " if name else ""
    label = f"trial {trial['number'] + 1}: {at}score {format_number(y)}"
    return Dot(x, y, label, " ".join(name for name, holds in css.items() if holds))


def _legend(dots: list[Dot]) -> tuple[tuple[str, str], ...]:
    labels = {"chosen": "chosen", "start": "start values", "stopped": "stopped early"}
    drawn = {css for dot in dots for css in dot.css.split()}
    return tuple((label, f"dotkey {css}") for css, label in labels.items() if css in drawn)
