"""Studies of one machine and of several, in SQLite and in PostgreSQL, cut off anywhere."""

import gc
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, text

from albef.search import study
from albef.search.study import (
    DATABASE,
    Report,
    StudyError,
    TrialFailedError,
    TrialRequest,
    _storage_errors,
)
from tests.conftest import free_port
from tests.search import toy_search
from tests.search.toy_search import SHARED, hasten, opened, search, train, worth

ROOT = Path(__file__).parents[2]
# The driver's: a connection that is refused leaves its socket to the garbage collector.
REFUSED_LEAVES_A_SOCKET = pytest.mark.filterwarnings("ignore:.*socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEARTBEAT_S", "GRACE_S", "POLL_S"):  # all of these are put back
        monkeypatch.setattr(study, name, getattr(study, name))
    hasten()


def facts(trials: list[FrozenTrial]) -> list[tuple[dict[str, float], str, object]]:
    return [(t.params, t.state.name, t.intermediate_values) for t in trials]


def start(folder: Path, *mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", toy_search.__name__, str(folder), *mode],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_one_that_trains(folder: Path) -> list[str]:
    """Start a process, kill it in its first trial; the position and rate of that."""
    with start(folder, "hang") as killed:
        assert killed.stdout
        line = killed.stdout.readline().split()
        killed.kill()
        assert line, killed.communicate()[1]
    return line


def stop(asked: TrialRequest, report: Report) -> None:
    report(1, worth(asked.values, 1))
    raise KeyboardInterrupt


def test_a_search_that_is_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Stopped and killed in the same trial, which goes on after the epochs that it reported."""
    whole = search(opened(tmp_path / "whole", SHARED))
    here = tmp_path / "cut"
    search(opened(here, SHARED), trials=3)
    with pytest.raises(KeyboardInterrupt):
        search(opened(here, SHARED), train=stop)
    position, rate = kill_one_that_trains(here)
    assert (int(position), float(rate)) == (3, whole[3].params["lr"])
    last = opened(here, SHARED)
    asked: list[int] = []

    def go_on(trial: TrialRequest, report: Report) -> None:
        asked.append(trial.position)
        for epoch in range(1 if len(asked) > 1 else 2, toy_search.EPOCHS + 1):
            report(epoch, worth(trial.values, epoch))

    ended = search(last, train=go_on)
    assert asked == [3, 4, 5, 6, 7]
    assert facts(ended) == facts(whole)
    again = opened(here, SHARED)
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


def test_a_trial_that_could_not_be_enqueued_again_is_so_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(*_: object) -> None:
        raise MemoryError

    first = opened(tmp_path / "short")
    with monkeypatch.context() as patch:
        patch.setattr(study, "_try_again", lack)
        with pytest.raises(MemoryError):
            search(first, train=lack)
    first.close()
    ended, usual = search(opened(tmp_path / "short")), search(opened(tmp_path / "usual"))
    assert [trial.params for trial in ended] == [trial.params for trial in usual]
    assert [trial.value for trial in ended] == [trial.value for trial in usual]


# Several machines


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a database of a real server on loopback, which the environment names."""
    pytest.importorskip("pg8000", reason="the driver pg8000 is not installed")
    debian = map(str, Path("/usr/lib/postgresql").glob("*/bin"))  # which is on no PATH
    path = os.pathsep.join([*debian, os.environ["PATH"]])
    initdb, postgres = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if initdb is None or postgres is None:
        pytest.skip("initdb and postgres are not installed, so no database is searched with")
    # As another user where this is root, whom PostgreSQL refuses.
    who: dict[str, Any] = {}
    if not os.getuid():
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    # Not in the folder that temporary files of a test have, where only their owner may go.
    with tempfile.TemporaryDirectory(prefix="albef-", dir="/tmp") as name:
        if who:
            shutil.chown(name, "nobody", "nogroup")
        command = [initdb, "-D", f"{name}/data", "-U", "albef", "--auth=trust", "--no-sync"]
        made = subprocess.run(command, cwd=name, capture_output=True, text=True, **who)
        assert not made.returncode, made.stderr
        port = free_port()
        options = [f"-p{port}", "-clisten_addresses=127.0.0.1", "-cfsync=off", f"-k{name}"]
        command = [postgres, "-D", f"{name}/data", *options]
        with (
            subprocess.Popen(command, cwd=name, stderr=subprocess.PIPE, text=True, **who) as server,
            pytest.MonkeyPatch.context() as patch,
        ):
            assert server.stderr
            assert any("ready to accept connections" in line for line in server.stderr)
            url = f"postgresql://albef@127.0.0.1:{port}/postgres"
            patch.setenv(DATABASE, url)
            yield url
            server.send_signal(signal.SIGINT)
            server.stderr.read()


def test_a_killed_machine_leaves_its_trial_to_the_others(database: str, tmp_path: Path) -> None:
    assert kill_one_that_trains(tmp_path) == ["0", "0.0001"]  # the start
    other = start(tmp_path)
    search(opened(tmp_path, SHARED))
    says = other.communicate(timeout=600)[1]
    assert other.returncode == 0, says
    both = opened(tmp_path, SHARED)
    ended = both.ended
    assert len(ended) == 8
    assert all(trial.state == TrialState.COMPLETE for trial in ended)
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in ended)
    assert len({trial.params["lr"] for trial in ended}) == 8
    [again] = [trial for trial in ended if both.position(trial) == 0]
    assert again.params["lr"] == 1e-4
    assert not both.run_trial(train)
    assert not both.repeatable
    both.close()


def test_a_machine_that_seemed_dead_continues_with_another_trial(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = opened(tmp_path, SHARED, run="lost")
    asked: list[int] = []

    def lose(trial: TrialRequest, report: Report) -> None:
        asked.append(trial.position)
        if len(asked) == 1:  # what others do for one that gives no heartbeat
            address = database.replace("postgresql", "postgresql+pg8000")
            theirs = optuna.load_study(study_name="search@lost", storage=address)
            theirs.tell(0, state=TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback()(theirs, theirs.trials[0])
            assert report(1, 0.5), "it is not worth going on"
            raise optuna.TrialPruned
        train(trial, report)

    assert len(search(one, train=lose)) == 8
    assert asked == [0, *range(8)]
    assert "another machine runs trial 1" in caplog.text


def test_a_full_disk_is_not_taken_for_a_damaged_study(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/study.db")

    def write() -> None:
        with _storage_errors(tmp_path / "study.db"), engine.begin() as connection:
            connection.execute(text("PRAGMA max_page_count = 2"))
            connection.execute(text("CREATE TABLE a AS SELECT zeroblob(100000)"))

    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/study.db'"):
        write()
    engine.dispose()


@REFUSED_LEAVES_A_SOCKET
def test_a_study_that_cannot_be_used_is_a_sentence_without_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATABASE, raising=False)
    (tmp_path / "study.db").write_text("no database " * 100)
    with pytest.raises(StudyError, match=f"{tmp_path}/study.db .* delete its"):
        opened(tmp_path)
    for url, says in (
        ("nonsense", "must be a database URL"),
        ("postgresql://me:hush@127.0.0.1:1/x", r"cannot use the database .*me:\*\*\*@127"),
        ("nosuch://me:hush@host/x", "cannot use .*nosuch"),
        ("postgresql+psycopg2cffi://me:hush@host/x", "needs a missing driver"),
    ):
        monkeypatch.setenv(DATABASE, url)
        with pytest.raises(StudyError, match=says) as raised:
            opened(tmp_path)
        gc.collect()
        assert "hush" not in str(raised.value)
