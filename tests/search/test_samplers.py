"""What is tried next, what is ended early, and what is wrong in the section ``search``."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from albef.config import ParamsError
from tests.search.toy_search import MEDIAN, NONE, TPE, TWO, opened, search, settings


def test_each_sampler_begins_at_the_start_stays_in_the_ranges_and_repeats_itself(
    tmp_path: Path,
) -> None:
    for number, sampler in enumerate((TPE | {"multivariate": True}, {"kind": "random"})):
        chosen = settings(sampler=sampler, trials=4)
        studies = (opened(tmp_path / f"{number}{copy}", chosen, TWO) for copy in "ab")
        tried = [[trial.params for trial in search(study)] for study in studies]
        assert tried[0] == tried[1]
        assert tried[0][0] == {"lr": 1e-4, "alpha": 0.4}
        assert len({tuple(params.values()) for params in tried[0]}) == 4
        assert all(1e-5 <= params["lr"] <= 1e-3 for params in tried[0])
        assert all(0 <= params["alpha"] <= 1 for params in tried[0])
    seeds = (1, 2, 10**9)
    others = [search(opened(tmp_path / f"{s}", seed=s), trials=2)[1].params["lr"] for s in seeds]
    assert len(set(others)) == 3


def test_bad_trials_are_ended_early_when_asked_to(tmp_path: Path) -> None:
    pruners = (MEDIAN, 1), (NONE, 4), (MEDIAN | {"warmup_epochs": 2}, 2)
    for number, (pruner, least) in enumerate(pruners):
        chosen = settings(trials=8, pruner=pruner)
        trials = search(opened(tmp_path / f"{number}", chosen))
        pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
        assert len(pruned) < 8
        assert bool(pruned) == (pruner != NONE)
        assert all(least <= len(trial.intermediate_values) < 4 for trial in pruned)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sampler": {"kind": "grid"}}, r"search\.sampler: there is no kind 'grid'; known:"),
    ({"sampler": {"kind": "tpr"}}, "did you mean tpe"),
    ({"sampler": {"kind": "random", "candidates": 3}}, "candidates is not a known key"),
    ({"sampler": "tpe"}, "kind is missing"),
    ({"pruner": MEDIAN | {"warmup_epochs": -1}}, r"search\.pruner: warmup_epochs: .* got -1"),
    ({"trials": 0}, r"search\.trials: .* got 0"),
]


def test_a_wrong_value_is_a_sentence() -> None:
    for changed, says in WRONG:
        with pytest.raises(ParamsError, match=says):
            settings(**changed)
