"""Summary of a search: rows of its trials, the chosen values, and the evidence for them."""

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

BEST = 5
"""Number of best trials whose spread is reported."""


def best_of(trials: Sequence[FrozenTrial], start: dict[str, float]) -> FrozenTrial:
    """Return the best complete trial; among equals the start, then the earliest.

    Raises:
        ValueError: no trial is complete.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        first = f"; first error: {failed[0].user_attrs['error']}" if failed else ""
        raise ValueError(
            f"no trial of the search completed: {len(failed)} failed and "
            f"{len(trials) - len(failed)} were pruned{first}"
        )
    return max(complete, key=lambda t: (t.value, t.params == start, -t.number))


def evidence(trials: Sequence[FrozenTrial], start: dict[str, float], metric: str) -> dict[str, Any]:
    """Return the evidence for the choice by ``metric``, as JSON values; a trial is complete."""
    best = best_of(trials, start)
    values = sorted((t.value for t in trials if t.state == TrialState.COMPLETE), reverse=True)
    at_start = [t.value for t in trials if t.params == start and t.value is not None]
    start_value = at_start[0] if at_start else None
    states = ("complete", "pruned", "fail")
    return {
        "metric": metric,
        "trials": {state: sum(t.state.name.lower() == state for t in trials) for state in states},
        "chosen": {"trial": list(trials).index(best), "start": best.params == start},
        "value": best.value,
        "start": start_value,
        "gain": None if start_value is None else best.value - start_value,
        "best": values[:BEST],
        "spread": values[0] - values[:BEST][-1],
    }


def rows(trials: Sequence[FrozenTrial], start: dict[str, float]) -> list[dict[str, Any]]:
    """Return the trials as JSON values, numbered from 0."""
    return [
        {
            "number": number,
            "state": trial.state.name.lower(),
            "params": trial.params,
            "values": [value for _, value in sorted(trial.intermediate_values.items())],
            "value": trial.value,
            "start": trial.params == start,
            **({"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}),
        }
        for number, trial in enumerate(trials)
    ]
