"""The study of a search that one process works on: reproducible, going on where it was cut off."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from albef.config import ParamsError, Range, validate
from albef.search.samplers import SearchConfig
from albef.search.shared_study import open_study
from albef.search.study import Study, place_of
from albef.search.study_storage import StudyError
from albef.search.summary import best_of, evidence, rows

SPACE = {"lr": Range(low=1e-5, high=1e-3, log=True, start=1e-4)}
TWO = SPACE | {"alpha": Range(low=0.0, high=1.0, log=False, start=0.4)}
TPE = {"kind": "tpe", "startup_trials": 2, "candidates": 24, "multivariate": False}
GP = {"kind": "gp", "startup_trials": 2}
MEDIAN = {"kind": "median", "startup_trials": 2, "warmup_epochs": 0}
HYPERBAND = {"kind": "hyperband", "min_epochs": 1, "reduction_factor": 2}
NONE = {"kind": "none"}


def settings(**changed: Any) -> SearchConfig:
    values = {"trials": 6, "epochs": 3, "sampler": TPE, "pruner": MEDIAN, **changed}
    return validate(SearchConfig, values, where="tests", key="search")


def opened(
    journal: Path,
    chosen: SearchConfig | None = None,
    *,
    space: Mapping[str, Range] = SPACE,
    seed: int = 1,
    run: str = "retrieval",
) -> Study:
    journal.parent.mkdir(exist_ok=True)
    identity = {"run": run, "space": ",".join(space)}
    chosen = chosen or settings()
    return open_study(journal, f"search@{run}", identity, chosen, space, seed=seed, shared=False)


def worth(values: Mapping[str, float], epoch: int) -> float:
    """A bump at lr 3e-4."""
    return epoch - abs(math.log(values["lr"] / 3e-4)) - abs(values.get("alpha", 0.4) - 0.4)


def search(study: Study, epochs: int = 3, *, trials: int = 99) -> list[FrozenTrial]:
    """Maximise the bump through the same calls as the stage."""
    while trials and (asked := study.ask()):
        trials -= 1
        state = TrialState.COMPLETE
        for epoch in range(1, epochs + 1):
            if study.report(epoch, worth(asked.values, epoch)):
                state = TrialState.PRUNED
                break
        study.tell(state)
    return study.ended


def told(trials: list[FrozenTrial]) -> list[tuple[int, dict[str, float], str, object]]:
    return [(t.number, t.params, t.state.name, t.intermediate_values) for t in trials]


def test_the_first_trial_is_at_the_start_of_every_range(tmp_path: Path) -> None:
    study = opened(tmp_path / "journal", space=TWO)
    asked = study.ask()
    assert asked
    assert asked.values == {"lr": 1e-4, "alpha": 0.4}


@pytest.mark.parametrize("sampler", [TPE, TPE | {"multivariate": True}, GP, {"kind": "random"}])
def test_each_sampler_stays_in_the_ranges_and_repeats_itself(
    tmp_path: Path, sampler: dict[str, Any]
) -> None:
    chosen = settings(sampler=sampler, trials=7)
    first, second = (
        search(opened(tmp_path / name / "journal", chosen, space=TWO)) for name in "ab"
    )
    tried = [tuple(trial.params.values()) for trial in first]
    assert len(set(tried)) == 7
    assert all(1e-5 <= lr <= 1e-3 and 0 <= alpha <= 1 for lr, alpha in tried)
    assert told(first) == told(second)


@pytest.mark.parametrize("sampler", [TPE, GP])
@pytest.mark.parametrize("pruner", [MEDIAN, HYPERBAND])
@pytest.mark.parametrize("cut", [0, 1, 2, 4])
def test_a_search_that_is_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, cut: int, sampler: dict[str, Any], pruner: dict[str, Any]
) -> None:
    """Cut off twice in the same trial, which goes on after the epochs that it reported."""
    chosen = settings(sampler=sampler, pruner=pruner, epochs=4)
    whole = search(opened(tmp_path / "whole" / "journal", chosen), 4)
    journal = tmp_path / "cut" / "journal"
    search(opened(journal, chosen), 4, trials=cut)
    asked = opened(journal, chosen).ask()  # killed at once
    assert asked
    running = opened(journal, chosen)
    again = running.ask()
    assert again == asked
    ends = running.report(1, worth(asked.values, 1))  # killed here
    last = opened(journal, chosen)
    assert last.ask() == asked
    if ends:
        assert last.report(1, worth(asked.values, 1))
        last.tell(TrialState.PRUNED)
    else:
        state = TrialState.COMPLETE
        for epoch in (2, 3, 4):  # the state was saved after epoch 1
            if last.report(epoch, worth(asked.values, epoch)):
                state = TrialState.PRUNED
                break
        last.tell(state)
    assert told(search(opened(journal, chosen), 4)) == told(whole)
    assert opened(journal, chosen).ask() is None  # nothing is tried twice
    assert told(opened(journal, chosen).ended) == told(whole)


@pytest.mark.parametrize("pruner", [MEDIAN, HYPERBAND])
def test_bad_trials_are_ended_early_when_asked_to(tmp_path: Path, pruner: dict[str, Any]) -> None:
    chosen = settings(trials=12, epochs=4, pruner=pruner)
    pruned = search(opened(tmp_path / "some" / "journal", chosen), 4)
    ended = [t for t in pruned if t.state == TrialState.PRUNED]
    assert 0 < len(ended) < 12
    assert all(1 <= len(t.intermediate_values) < 4 for t in ended)
    chosen = settings(trials=12, epochs=4, pruner=NONE)
    kept = search(opened(tmp_path / "none" / "journal", chosen), 4)
    assert all(trial.state == TrialState.COMPLETE for trial in kept)


def test_no_trial_is_ended_before_its_warm_up(tmp_path: Path) -> None:
    chosen = settings(trials=12, pruner=MEDIAN | {"warmup_epochs": 2})
    ended = search(opened(tmp_path / "journal", chosen))
    assert all(len(trial.intermediate_values) >= 2 for trial in ended)


def test_a_failed_trial_keeps_its_error_counts_and_is_not_tried_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    study = opened(journal)
    study.ask()
    study.fail("the loss is no number at step 3")
    study.ask()
    study.report(1, math.nan)
    failed = study.tell(TrialState.COMPLETE)
    assert failed.state == TrialState.FAIL
    assert "which is no number" in failed.user_attrs["error"]
    ended = search(opened(journal))
    assert len(ended) == 6
    assert [trial.state for trial in ended[:2]] == [TrialState.FAIL] * 2
    shown = rows(ended, {"lr": 1e-4})
    assert shown[0]["error"] == "the loss is no number at step 3"
    found = evidence(ended, {"lr": 1e-4}, "r_mean", True)
    assert found["trials"]["fail"] == 2
    assert found["start"] is None
    assert found["gain"] is None


def test_another_seed_tries_other_values(tmp_path: Path) -> None:
    first, second = (
        search(opened(tmp_path / str(seed) / "journal", seed=seed), trials=3) for seed in (1, 2)
    )
    assert first[0].params == second[0].params
    assert first[1].params != second[1].params
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


# Evidence


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


START = {"lr": 1.0}


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.data())
def test_the_best_trial_wins_and_the_start_wins_a_tie(
    values: list[float], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(values) - 1))  # tried again, the start may come late
    trials = [trial(n, 1.0 if n == at else 2.0 + n, value) for n, value in enumerate(values)]
    best = best_of(trials, START)
    assert best.value == max(values)
    assert (best.params == START) == (values[at] == max(values))
    found = evidence(trials, START, "m", True)
    assert found["start"] == values[at]
    assert found["gain"] == best.value - values[at]
    assert found["chosen"] == {"trial": best.number, "start": best.params == START}
    assert found["best"] == sorted(values, reverse=True)[:5]
    assert found["spread"] == found["best"][0] - found["best"][-1] >= 0


def test_the_evidence_counts_trials_by_how_they_ended() -> None:
    trials = [trial(0, 1.0, 50.0), trial(1, 2.0, None), trial(2, 3.0, None, error="boom")]
    found = evidence(trials, START, "r_mean", False)
    assert found["trials"] == {"complete": 1, "pruned": 1, "fail": 1}
    assert found["repeatable"] is False
    assert "another search of the same values finds other trials" in found["not_repeatable_because"]


def test_where_all_trials_fail_one_sentence_says_of_what() -> None:
    trials = [trial(n, n + 1.0, None, error=f"boom {n}") for n in range(2)]
    with pytest.raises(ValueError, match=r"2 of 2 failed\. The first: boom 0"):
        best_of(trials, START)
    with pytest.raises(ValueError, match="1 of 2 failed, and 1 were ended early"):
        best_of([trials[0], trial(1, 2.0, None)], START)


# Bad input


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"sampler": {"kind": "grid"}},
            r"search\.sampler: kind 'grid' is not known; there are",
        ),
        ({"sampler": {"kind": "tpr"}}, "did you mean tpe"),
        ({"sampler": GP | {"candidates": 3}}, "candidates is not a known key"),
        ({"sampler": {"kind": "gp"}}, "startup_trials is missing"),
        ({"sampler": "tpe"}, "kind is missing"),
        ({"pruner": MEDIAN | {"warmup_epochs": -1}}, r"search\.pruner: warmup_epochs: .* got -1"),
        ({"pruner": HYPERBAND | {"min_epochs": 4}}, "min_epochs 4 is more than the 3 epochs"),
        ({"trials": 0}, r"search\.trials: .* got 0"),
    ],
)
def test_a_wrong_value_is_a_sentence(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        settings(**changed)


def test_a_half_written_last_line_is_cut_off_and_nothing_else_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal"
    before = search(opened(journal), trials=2)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id"')
    assert told(opened(journal).ended) == told(before)
    assert "ends in the middle of a line, which is cut off" in caplog.text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not JSON", "line 3 is no entry of a journal; cut the file off before it"),
        ("{}", "is no journal of a study"),
        ('{"op_code": 99, "worker_id": "x"}', "is no journal of a study"),
    ],
)
def test_a_corrupt_journal_is_named_with_its_remedy(tmp_path: Path, line: str, says: str) -> None:
    journal = tmp_path / "journal"
    search(opened(journal), trials=2)
    lines = journal.read_text().splitlines()
    lines[2] = line
    journal.write_text("\n".join(lines) + "\n")
    with pytest.raises(StudyError, match=says) as raised:
        opened(journal)
    assert str(journal) in str(raised.value)
    assert f"delete {tmp_path} to start this search anew" in str(raised.value)
    assert len(journal.read_text().splitlines()) == len(lines)


def test_a_study_of_another_run_or_space_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    search(opened(journal), trials=1)
    with pytest.raises(StudyError, match="holds the study search@retrieval, not search@vqa"):
        opened(journal, run="vqa")
    says = r"is a study of another space \(space lr, not lr,alpha\); delete"
    with pytest.raises(StudyError, match=says):
        opened(journal, space=TWO)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "journal").touch()
    with pytest.raises(StudyError, match="holds no study, not search@retrieval"):
        opened(tmp_path / "empty" / "journal")


def test_a_trial_that_is_tried_again_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = opened(journal).ask()
    again = opened(journal).ask()
    assert first
    assert again
    assert first.place == again.place == "trial-0"
    study = opened(journal)
    search(study)
    assert [place_of(t) for t in study.ended] == [f"trial-{n}" for n in range(6)]
    assert json.loads(journal.read_text().splitlines()[0])["op_code"] == 0
