"""Studies that several processes work on: of one machine in a journal, of many in PostgreSQL."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from albef.search import shared_study, study, study_storage
from albef.search.shared_study import DatabaseStudy, JournalStudy
from albef.search.study import LoneStudy, Study, TrialLost
from albef.search.study_storage import DATABASE, StudyError
from tests.search import toy_search
from tests.search.toy_search import hasten, work

OPENED: list[Study] = []
ROOT = Path(__file__).parents[2]
# The driver's: a connection that is refused leaves its socket to the garbage collector.
REFUSED_LEAVES_A_SOCKET = pytest.mark.filterwarnings("ignore:.*socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(study, "POLL_S", study.POLL_S)  # all of these are put back
    monkeypatch.setattr(study_storage, "GRACE_S", study_storage.GRACE_S)
    for module in (study_storage, shared_study):
        monkeypatch.setattr(module, "HEARTBEAT_S", module.HEARTBEAT_S)
    hasten()
    yield
    while OPENED:
        OPENED.pop().close()


def opened(folder: Path, **rest: Any) -> Study:
    OPENED.append(toy_search.opened(folder, **rest))
    return OPENED[-1]


def start(folder: Path, *mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.toy_search", str(folder), *mode],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(folder: Path) -> tuple[int, float]:
    """Number and value of a trial whose process was killed after its first epoch."""
    process = start(folder, "hang")
    assert process.stdout
    line = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    told = process.communicate()[1]
    assert line, told
    return int(line[0]), float(line[1])


def checked(found: Study, number: int, value: float) -> None:
    """All trials have ended, and that one was tried again with its value and its reports."""
    ended = found.ended
    assert len(ended) == 8
    assert all(trial.state == TrialState.COMPLETE for trial in ended)
    assert all(list(trial.intermediate_values) == [1, 2] for trial in ended)
    [again] = [trial for trial in ended if trial.user_attrs.get("again") == number]
    assert again.params["lr"] == value
    assert number not in {trial.number for trial in ended}
    assert len({trial.params["lr"] for trial in ended}) == 8
    assert found.ask() is None
    assert not found.repeatable


def test_a_killed_worker_leaves_its_trial_to_the_others(tmp_path: Path) -> None:
    number, value = killed(tmp_path)
    assert number == 0
    assert value == 1e-4  # the start
    others = [start(tmp_path) for _ in range(2)]
    for process in others:
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 0, told
    checked(opened(tmp_path), number, value)


def test_a_running_trial_is_not_taken_from_its_worker(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    mine, other = first.ask(), second.ask()
    assert mine
    assert other
    assert (mine.number, other.number) == (0, 1)
    first.put_back()
    again = second.ask()  # where it is not told, it is still its own
    assert again
    assert again.place == mine.place == "trial-0"
    assert again.values == mine.values


def test_workers_go_on_with_a_study_of_one_and_it_stays_theirs(tmp_path: Path) -> None:
    lone = opened(tmp_path, shared=False)
    assert isinstance(lone, LoneStudy)
    asked = lone.ask()
    lone.report(1, 1.0)
    lone.tell(TrialState.COMPLETE)
    lone.ask()  # and it is killed
    shared = opened(tmp_path)
    assert isinstance(shared, JournalStudy)
    assert asked
    again = shared.ask()
    assert again
    assert again.place == "trial-1"
    later = opened(tmp_path, shared=False)
    assert isinstance(later, JournalStudy)
    assert not later.repeatable


# PostgreSQL


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a database of a real server on loopback."""
    pytest.importorskip("pg8000", reason="the driver pg8000 is not installed")
    found = [shutil.which(name) for name in ("initdb", "postgres")]
    if not all(found):
        pytest.skip("initdb and postgres are not installed, so no database is searched with")
    initdb, postgres = map(str, found)
    # As another user where this is root, whom PostgreSQL refuses.
    who = {"user": "nobody", "group": "nogroup", "extra_groups": []} if not os.getuid() else {}
    with tempfile.TemporaryDirectory(prefix="albef-pg-") as name, socket.socket() as free:
        folder = Path(name)
        (folder / "password").write_text("s3cr3t")
        if who:
            shutil.chown(folder, "nobody", "nogroup")
            shutil.chown(folder / "password", "nobody", "nogroup")
        command = [initdb, "-D", f"{name}/data", "-U", "albef", "--auth=scram-sha-256"]
        command += ["--no-sync", f"--pwfile={name}/password"]
        made = subprocess.run(command, cwd=name, capture_output=True, text=True, **who)
        if made.returncode:
            pytest.skip(f"initdb cannot make a database here: {made.stderr.strip()}")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        options = [f"-p{port}", "-clisten_addresses=127.0.0.1", "-cfsync=off", f"-k{name}"]
        command = [postgres, "-D", f"{name}/data", *options]
        with subprocess.Popen(
            command, cwd=name, stderr=subprocess.PIPE, text=True, **who
        ) as server:
            assert server.stderr
            for line in server.stderr:
                if "ready to accept connections" in line:
                    break
            else:
                pytest.skip("postgres does not start here")
            yield f"postgresql://albef:s3cr3t@127.0.0.1:{port}/postgres"
            server.send_signal(signal.SIGINT)
            server.stderr.read()


@pytest.fixture
def database(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(DATABASE, postgresql)
    return postgresql


def test_machines_share_a_study_in_postgresql_and_outlive_one_that_is_killed(
    database: str, tmp_path: Path
) -> None:
    number, value = killed(tmp_path)
    others = [start(tmp_path) for _ in range(2)]
    for process in others:
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 0, told
    found = opened(tmp_path)
    assert isinstance(found, DatabaseStudy)
    checked(found, number, value)
    assert not list(tmp_path.iterdir())


def test_a_machine_that_is_asked_to_stop_hands_its_trial_back(
    database: str, tmp_path: Path
) -> None:
    first, second = opened(tmp_path, run="stopped"), opened(tmp_path, run="stopped")
    asked = first.ask()
    first.report(1, 0.5)
    first.put_back()
    again = second.ask()
    assert asked
    assert again
    assert again.values == asked.values
    assert again.number > asked.number
    assert second._frozen().intermediate_values == {1: 0.5}
    second.put_back()


def test_a_machine_that_seemed_dead_hears_that_its_trial_is_another_s(
    database: str, tmp_path: Path
) -> None:
    first, second = opened(tmp_path, run="lost"), opened(tmp_path, run="lost")
    first.ask()
    first.put_back()  # as the others do for one that gives no sign of life
    with pytest.raises(TrialLost):
        first.report(1, 0.5)
    with pytest.raises(TrialLost):
        first.tell(TrialState.COMPLETE)
    with pytest.raises(TrialLost):
        first.fail("boom")
    work(second)
    assert len(second.ended) == 8


def test_no_more_trials_than_asked_for_where_two_ask_at_once(database: str, tmp_path: Path) -> None:
    first, second = (opened(tmp_path, run="one", trials=1) for _ in range(2))
    assert first.ask()
    assert second._take() is None  # as if it had counted before the first one took its trial
    first.report(1, 1.0)
    first.tell(TrialState.COMPLETE)
    assert second.ask() is None
    assert len(second.ended) == 1


# Bad input


def test_a_study_of_another_space_in_the_database_is_refused(database: str, tmp_path: Path) -> None:
    found = opened(tmp_path, run="spaced")
    found._study.set_user_attr("of", {"run": "spaced", "space": "alpha"})
    with pytest.raises(StudyError, match="is a study of another space") as raised:
        opened(tmp_path, run="spaced")
    assert "optuna delete-study --study-name search@spaced" in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@REFUSED_LEAVES_A_SOCKET
def test_a_wrong_password_is_a_sentence_without_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE, database.replace("s3cr3t", "wr0ng"))
    with pytest.raises(StudyError, match=r"cannot be used \(.*password") as raised:
        opened(tmp_path)
    assert "wr0ng" not in str(raised.value)
    assert "\n" not in str(raised.value)
    gc.collect()


@REFUSED_LEAVES_A_SOCKET
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "is no address of a database"),
        ("postgresql://me:hush@127.0.0.1:1/x", r"the database .*me:\*\*\*@127.* cannot be used"),
        ("nosuch://me:hush@host/x", "cannot be used .*nosuch"),
        ("mysql+oursql://me:hush@host/x", "cannot be used .*oursql"),
        ("postgresql+psycopg2cffi://me:hush@host/x", "needs a driver that is not installed"),
    ],
)
def test_an_address_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv(DATABASE, url)
    with pytest.raises(StudyError, match=says) as raised:
        opened(tmp_path)
    gc.collect()
    assert "hush" not in str(raised.value)
