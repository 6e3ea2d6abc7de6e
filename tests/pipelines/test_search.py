"""The study of a search: reproducible, and going on where it was cut off."""

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from albef.config import Range, validate
from pipelines.search import SearchConfig, Study

SPACE = {"lr": Range(low=1e-5, high=1e-3, log=True, start=1e-4)}


def settings(trials: int = 6, pruner: str = "median") -> SearchConfig:
    values = {"trials": trials, "epochs": 3, "pruner": pruner, "startup_trials": 2}
    return validate(SearchConfig, values, where="tests")


def search(journal: Path, trials: int, pruner: str = "median", seed: int = 1) -> list[FrozenTrial]:
    """Maximise a bump at 3e-4 through the same calls as the stage."""
    study = Study(journal, settings(trials, pruner), SPACE, seed)
    while asked := study.ask():
        number, params = asked
        assert number == len(study.finished)
        state = TrialState.COMPLETE
        for epoch in range(1, 4):
            if study.report(epoch, epoch - abs(math.log(params["lr"] / 3e-4))):
                state = TrialState.PRUNED
                break
        study.tell(state)
    return study.finished


def told(trials: list[FrozenTrial]) -> list[tuple[int, dict[str, float], str, object]]:
    return [(t.number, t.params, t.state.name, t.intermediate_values) for t in trials]


def test_the_first_trial_is_at_the_start_of_every_range(tmp_path: Path) -> None:
    assert search(tmp_path / "journal", 1)[0].params == {"lr": 1e-4}


def test_trials_stay_in_their_range_and_differ(tmp_path: Path) -> None:
    tried = [trial.params["lr"] for trial in search(tmp_path / "journal", 6)]
    assert len(set(tried)) == 6
    assert all(1e-5 <= lr <= 1e-3 for lr in tried)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_search_that_is_cut_off_ends_as_one_that_was_not(tmp_path: Path, cut: int) -> None:
    whole = search(tmp_path / "whole", 6)
    search(tmp_path / "cut", cut)
    running = Study(tmp_path / "cut", settings(), SPACE, 1)
    running.ask()
    running.report(1, 0.5)  # killed here
    resumed = search(tmp_path / "cut", 6)
    assert told(resumed) == told(whole)
    again = Study(tmp_path / "cut", settings(), SPACE, 1)
    assert told(again.finished) == told(whole)  # nothing is tried twice


def test_bad_trials_are_pruned_when_asked_to(tmp_path: Path) -> None:
    pruned = search(tmp_path / "median", 8)
    assert any(trial.state == TrialState.PRUNED for trial in pruned)
    kept = search(tmp_path / "none", 8, pruner="none")
    assert all(trial.state == TrialState.COMPLETE for trial in kept)


def test_the_start_wins_a_tie(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", settings(), SPACE, 1)
    for _ in range(3):
        study.ask()
        study.report(1, 0.5)
        study.tell(TrialState.COMPLETE)
    assert study.best().number == 0


def test_another_seed_tries_other_values(tmp_path: Path) -> None:
    first, second = (search(tmp_path / str(seed), 3, seed=seed) for seed in (1, 2))
    assert first[0].params == second[0].params
    assert first[1].params != second[1].params
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
