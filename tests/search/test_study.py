"""Studies in SQLite and in PostgreSQL, cut off anywhere."""

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

import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, text

from albef.search import study
from albef.search.study import DATABASE, Report, StudyError, TrialFailedError, TrialRequest
from tests.conftest import free_port
from tests.search import toy_search
from tests.search.toy_search import EIGHT, hasten, opened, search, train, worth

ROOT = Path(__file__).parents[2]


def facts(trials: list[FrozenTrial]) -> list[tuple[dict[str, float], str, object]]:
    return [(t.params, t.state.name, t.intermediate_values) for t in trials]


def start(folder: Path, *mode: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", toy_search.__name__, str(folder), *mode]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_one_that_trains(folder: Path) -> list[str]:
    """Start a process, kill it in its next trial; the position and rate of that."""
    with start(folder, "hang") as killed:
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


@pytest.fixture
def _database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database of a real server on loopback, which the environment names."""
    pytest.importorskip("pg8000", reason="the driver pg8000 is not installed")
    debian = map(str, Path("/usr/lib/postgresql").glob("*/bin"))  # which is on no PATH
    path = os.pathsep.join([*debian, os.environ["PATH"]])
    initdb, postgres = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if initdb is None or postgres is None:
        pytest.skip("initdb and postgres are not installed")
    # PostgreSQL refuses root, and another user may not enter pytest's temporary folder.
    root = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    user: dict[str, Any] = {} if os.getuid() else root
    with tempfile.TemporaryDirectory(prefix="albef-", dir="/tmp") as name:
        os.chmod(name, 0o777)
        command = [initdb, "-D", f"{name}/data", "-U", "albef", "--auth=trust", "--no-sync"]
        subprocess.run(command, cwd=name, capture_output=True, check=True, **user)
        port = free_port()
        options = [f"-p{port}", "-clisten_addresses=127.0.0.1", "-cfsync=off", f"-k{name}"]
        command = [postgres, "-D", f"{name}/data", *options]
        with subprocess.Popen(
            command, cwd=name, stderr=subprocess.PIPE, text=True, **user
        ) as server:
            assert server.stderr
            assert any("ready to accept connections" in line for line in server.stderr)
            monkeypatch.setenv(DATABASE, f"postgresql+pg8000://albef@127.0.0.1:{port}/postgres")
            for variable in ("HEARTBEAT_S", "GRACE_S", "POLL_S"):  # restored after the test
                monkeypatch.setattr(study, variable, getattr(study, variable))
            hasten()
            yield
            server.send_signal(signal.SIGINT)
            server.stderr.read()


@pytest.mark.usefixtures("_database")
def test_a_killed_machine_leaves_its_trial_to_the_others(tmp_path: Path) -> None:
    assert kill_one_that_trains(tmp_path) == ["0", "0.0001"]  # the start
    with pytest.raises(KeyboardInterrupt):  # whose trial is repeated at once
        search(opened(tmp_path, EIGHT), train=stop)
    with start(tmp_path) as other:
        search(opened(tmp_path, EIGHT))
    assert other.returncode == 0
    shared = opened(tmp_path, EIGHT)
    ended = shared.ended
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 8
    assert all(list(trial.intermediate_values) == [1, 2, 3, 4] for trial in ended)
    assert len({trial.params["lr"] for trial in ended}) == 8
    assert ended[0].params["lr"] == 1e-4
    assert not shared.run_trial(train)
    shared.close()


# The driver leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*socket:ResourceWarning")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "must be a database URL"),
        ("postgresql+pg8000://me:hush@127.0.0.1:1/x", f"cannot use the database of {DATABASE}"),
        ("postgresql+pg8000://me@127.0.0.1:1/x", r"\(.*create a connection.*\); once it works"),
        ("postgresql+psycopg2cffi://me:hush@host/x", r"pip install '\.\[postgresql"),
    ],
)
def test_a_database_that_cannot_be_used_is_an_error_without_the_password(
    url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE, url)
    with pytest.raises(StudyError, match=says) as raised:
        opened(tmp_path)
    gc.collect()
    assert "hush" not in str(raised.value)


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
