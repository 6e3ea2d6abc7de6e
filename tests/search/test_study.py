"""Studies in SQLite, cut off anywhere."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, text

from albef.search.study import Report, StudyError, TrialFailedError, TrialRequest
from tests.search import toy_search
from tests.search.toy_search import NONE, opened, search, settings, train, worth

ROOT = Path(__file__).parents[2]
EIGHT = settings(trials=8, pruner=NONE)


def facts(trials: list[FrozenTrial]) -> list[tuple[dict[str, float], str, object]]:
    return [(t.params, t.state.name, t.intermediate_values) for t in trials]


def kill_one_that_trains(folder: Path) -> list[str]:
    """Start a process, kill it in its next trial; the position and rate of that."""
    command = [sys.executable, "-m", toy_search.__name__, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        line = killed.stdout.readline().split()
        killed.kill()
    return line


def stop(asked: TrialRequest, report: Report) -> None:
    report(1, worth(asked.values, 1))
    raise KeyboardInterrupt


def test_a_search_that_is_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Stopped and killed in the same trial, which goes on after the epochs that it reported."""
    whole = search(opened(tmp_path / "whole", EIGHT))
    here = tmp_path / "cut"
    search(opened(here, EIGHT), trials=3)
    with pytest.raises(KeyboardInterrupt):
        search(opened(here, EIGHT), train=stop)
    position, rate = kill_one_that_trains(here)
    assert (int(position), float(rate)) == (3, whole[3].params["lr"])
    last = opened(here, EIGHT)
    asked: list[int] = []

    def go_on(trial: TrialRequest, report: Report) -> None:
        asked.append(trial.position)
        for epoch in range(1 if len(asked) > 1 else 2, toy_search.EPOCHS + 1):
            report(epoch, worth(trial.values, epoch))

    ended = search(last, train=go_on)
    assert asked == [3, 4, 5, 6, 7]
    assert facts(ended) == facts(whole)
    again = opened(here, EIGHT)
    assert not again.run_trial(train), "nothing is tried twice"
    assert [again.position(trial) for trial in ended] == list(range(8))
    again.close()


def test_a_failed_trial_keeps_its_error_counts_and_is_not_tried_again(tmp_path: Path) -> None:
    def fail(asked: TrialRequest, report: Report) -> None:
        if asked.position:
            report(1, math.nan)
        else:
            raise TrialFailedError("loss is NaN or Inf at step 3")

    search(opened(tmp_path), trials=2, train=fail)
    ended = search(opened(tmp_path))
    assert [trial.state for trial in ended[:2]] == [TrialState.FAIL] * 2
    assert ended[0].user_attrs["error"] == "loss is NaN or Inf at step 3"
    assert ended[1].user_attrs["error"].endswith("is nan")
    assert len(ended) == 6


def test_a_full_disk_is_not_taken_for_a_damaged_study(tmp_path: Path) -> None:
    study = opened(tmp_path)

    def fill(asked: TrialRequest, report: Report) -> None:
        with engine.begin() as connection:
            connection.execute(text("PRAGMA max_page_count = 2"))
            connection.execute(text("CREATE TABLE a AS SELECT zeroblob(100000)"))

    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/study.db'"):
        study.run_trial(fill)
    engine.dispose()
    study.close()
    assert len(search(opened(tmp_path))) == 6


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database " * 100)
    with pytest.raises(StudyError, match=f"{tmp_path}/study.db .* delete its"):
        opened(tmp_path)
