"""The choice of a search, and what it rests on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from albef.search.summary import best_of, evidence, rows

START = {"lr": 1.0}


def trial(number: int, lr: float, value: float | None, **attrs: Any) -> FrozenTrial:
    state = TrialState.COMPLETE if value is not None else TrialState.PRUNED
    if "error" in attrs:
        state = TrialState.FAIL
    made = create_trial(
        state=state,
        value=value,
        params={"lr": lr},
        distributions={"lr": FloatDistribution(1e-9, 1e9)},
        user_attrs=attrs,
    )
    made.number = number
    return made


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.data())
def test_the_best_trial_wins_and_the_start_wins_a_tie(
    values: list[float], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(values) - 1))  # tried again, the start may come late
    trials = [trial(n, 1.0 if n == at else 2.0 + n, value) for n, value in enumerate(values)]
    best = best_of(trials, START)
    assert best.value == max(values)
    assert (best.params == START) == (values[at] == max(values))
    summary = evidence(trials, START, "m")
    assert summary["start"] == values[at]
    assert summary["gain"] == best.value - values[at]
    assert summary["chosen"] == {"trial": best.number, "start": best.params == START}
    assert summary["best"] == sorted(values, reverse=True)[:5]
    assert summary["spread"] == summary["best"][0] - summary["best"][-1] >= 0


def test_trials_are_counted_by_how_they_ended() -> None:
    trials = [trial(0, 1.0, None, error="boom"), trial(1, 2.0, 50.0), trial(2, 3.0, None)]
    summary = evidence(trials, START, "r_mean")
    assert summary["trials"] == {"complete": 1, "pruned": 1, "fail": 1}
    assert summary["start"] is summary["gain"] is None
    assert [row.get("error") for row in rows(trials, START)] == ["boom", None, None]
    with pytest.raises(ValueError, match=r"1 failed and 1 were pruned.*: boom"):
        best_of([trials[0], trials[2]], START)
