"""Studies of one process and of several, in a journal and in PostgreSQL, cut off anywhere."""

import gc
import math
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
from optuna.trial import FrozenTrial, TrialState

from albef.search import study, study_storage
from albef.search.samplers import SearchConfig
from albef.search.study import Study, place_of
from albef.search.study_storage import DATABASE, StudyError, TrialLost
from tests.search import toy_search
from tests.search.toy_search import (
    GP,
    HYPERBAND,
    MEDIAN,
    SHARED,
    TPE,
    hasten,
    search,
    settings,
    worth,
)

OPENED: list[Study] = []
ROOT = Path(__file__).parents[2]
# The driver's: a connection that is refused leaves its socket to the garbage collector.
REFUSED_LEAVES_A_SOCKET = pytest.mark.filterwarnings("ignore:.*socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(study, "POLL_S", study.POLL_S)  # all of these are put back
    for name in ("HEARTBEAT_S", "GRACE_S"):
        monkeypatch.setattr(study_storage, name, getattr(study_storage, name))
    hasten()
    yield
    while OPENED:
        OPENED.pop().close()


def opened(folder: Path, *args: Any, **rest: Any) -> Study:
    OPENED.append(toy_search.opened(folder, *args, **rest))
    return OPENED[-1]


def facts(trials: list[FrozenTrial]) -> list[tuple[int, dict[str, float], str, object]]:
    return [(t.number, t.params, t.state.name, t.intermediate_values) for t in trials]


def same(trial: FrozenTrial | None, other: FrozenTrial) -> bool:
    return trial is not None and (trial.number, trial.params) == (other.number, other.params)


@pytest.fixture(scope="module", params=[(TPE, MEDIAN), (TPE, HYPERBAND), (GP, HYPERBAND)])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchConfig, list[FrozenTrial]]:
    """Settings, and the trials of a search with them that was not cut off."""
    chosen = settings(sampler=request.param[0], pruner=request.param[1])
    return chosen, search(toy_search.opened(tmp_path_factory.mktemp("whole"), chosen))


@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_search_that_is_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, cut: int, whole: tuple[SearchConfig, list[FrozenTrial]]
) -> None:
    """Cut off twice in the same trial, which goes on after the epochs that it reported."""
    chosen, trials = whole
    here = tmp_path / "cut"
    search(opened(here, chosen), trials=cut)
    killed = opened(here, chosen)
    asked = killed.ask()
    assert asked
    assert place_of(asked) == f"trial-{cut}"
    killed.close()
    killed = opened(here, chosen)
    assert same(killed.ask(), asked)
    ends = killed.report(1, worth(asked.params, 1))
    killed.close()
    last = opened(here, chosen)
    if not ends:
        assert same(last.ask(), asked)
        # Its first epoch is reported again, if its state was not saved after that.
        if not any(last.report(epoch, worth(asked.params, epoch)) for epoch in (1, 2, 3, 4)):
            last.complete_trial()
    last.close()
    assert facts(search(opened(here, chosen))) == facts(trials)
    assert opened(here, chosen).ask() is None  # nothing is tried twice


def test_a_failed_trial_keeps_its_error_counts_and_is_not_tried_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.ask()
    first.fail_trial("the loss is no number at step 3")
    first.ask()
    first.report(1, math.nan)
    failed = first.complete_trial()
    assert failed.state == TrialState.FAIL
    assert "which is no number" in failed.user_attrs["error"]
    first.close()
    ended = search(opened(tmp_path))
    assert [trial.state for trial in ended[:2]] == [TrialState.FAIL] * 2
    assert ended[0].user_attrs["error"] == "the loss is no number at step 3"
    assert [place_of(trial) for trial in ended] == [f"trial-{n}" for n in range(6)]


def test_a_half_written_last_line_is_cut_off_and_nothing_else_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = search(opened(tmp_path), trials=2)
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id"')
    assert facts(opened(tmp_path).ended) == facts(before)
    assert "ends in the middle of a line, which is cut off" in caplog.text


@pytest.mark.parametrize("line", ["not JSON", "{}", '{"op_code": 99, "worker_id": "x"}'])
def test_a_corrupt_journal_is_named_with_its_remedy(tmp_path: Path, line: str) -> None:
    search(opened(tmp_path), trials=2)
    journal = tmp_path / "journal"
    lines = journal.read_text().splitlines()
    lines[2] = line
    journal.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        StudyError, match=f"{journal} is no journal of a study .* delete {tmp_path}"
    ):
        opened(tmp_path)


def test_a_second_process_is_refused_where_one_searches_alone(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(
        StudyError, match=f"process {os.getpid()} already searches in {tmp_path}; wait"
    ):
        opened(tmp_path)


# Several processes, of one machine or of many


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a database of a real server on loopback."""
    pytest.importorskip("pg8000", reason="the driver pg8000 is not installed")
    debian = map(str, Path("/usr/lib/postgresql").glob("*/bin"))  # which is on no PATH
    path = os.pathsep.join([*debian, os.environ["PATH"]])
    found = [shutil.which(name, path=path) for name in ("initdb", "postgres")]
    if not all(found):
        pytest.skip("initdb and postgres are not installed, so no database is searched with")
    initdb, postgres = map(str, found)
    # As another user where this is root, whom PostgreSQL refuses.
    who: dict[str, Any] = {}
    if not os.getuid():
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    # Not in the folder that temporary files of a test have, where only their owner may go.
    with tempfile.TemporaryDirectory(prefix="albef-", dir="/tmp") as name, socket.socket() as free:
        folder = Path(name)
        (folder / "password").write_text("s3cr3t")
        if who:
            shutil.chown(folder, "nobody", "nogroup")
            shutil.chown(folder / "password", "nobody", "nogroup")
        command = [initdb, "-D", f"{name}/data", "-U", "albef", "--auth=scram-sha-256"]
        command += ["--no-sync", f"--pwfile={name}/password"]
        made = subprocess.run(command, cwd=name, capture_output=True, text=True, **who)
        assert not made.returncode, made.stderr
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
                pytest.fail("postgres does not start")
            yield f"postgresql://albef:s3cr3t@127.0.0.1:{port}/postgres"
            server.send_signal(signal.SIGINT)
            server.stderr.read()


@pytest.fixture
def database(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(DATABASE, postgresql)
    return postgresql


@pytest.fixture(params=["journal", "database"])
def kept(request: pytest.FixtureRequest) -> str:
    """Where the study is kept."""
    if request.param == "database":
        request.getfixturevalue("database")
    return str(request.param)


def start(folder: Path, *mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", toy_search.__name__, str(folder), *mode],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_its_trial_to_the_others(kept: str, tmp_path: Path) -> None:
    killed = start(tmp_path, "hang")
    assert killed.stdout
    line = killed.stdout.readline().split()
    killed.kill()
    assert line, killed.communicate()[1]
    killed.communicate()
    assert line == ["0", "0.0001"]  # the start
    other = start(tmp_path)
    search(opened(tmp_path, SHARED, shared=True))
    says = other.communicate(timeout=600)[1]
    assert other.returncode == 0, says
    both = opened(tmp_path, SHARED, shared=True)
    ended = both.ended
    assert len(ended) == 8
    assert all(trial.state == TrialState.COMPLETE for trial in ended)
    assert all(list(trial.intermediate_values) == [1, 2] for trial in ended)
    assert len({trial.params["lr"] for trial in ended}) == 8
    [again] = [trial for trial in ended if place_of(trial) == "trial-0"]
    assert again.params["lr"] == 1e-4
    assert both.ask() is None
    assert not both.repeatable
    assert (tmp_path / "journal").exists() == (kept == "journal")


def test_a_running_trial_is_not_taken_until_it_is_put_back(kept: str, tmp_path: Path) -> None:
    first, second = (opened(tmp_path, SHARED, run="back", shared=True) for _ in range(2))
    mine, other = first.ask(), second.ask()
    assert mine
    assert other
    assert (mine.number, other.number) == (0, 1)
    first.report(1, 0.5)
    first.put_back()
    second.complete_trial()
    again = second.ask()
    assert again
    assert place_of(again) == place_of(mine) == "trial-0"
    assert again.params == mine.params
    assert second._frozen().intermediate_values == {1: 0.5}
    second.put_back()


def test_workers_go_on_with_a_study_of_one_and_it_stays_theirs(tmp_path: Path) -> None:
    lone = opened(tmp_path, SHARED)
    assert lone.repeatable
    lone.ask()
    lone.report(1, 1.0)
    lone.complete_trial()
    lone.ask()
    lone.close()  # as if it were killed
    shared = opened(tmp_path, SHARED, shared=True)
    again = shared.ask()
    assert again
    assert place_of(again) == "trial-1"
    assert not opened(tmp_path, SHARED).repeatable


def test_a_machine_that_seemed_dead_hears_that_its_trial_is_another_s(
    database: str, tmp_path: Path
) -> None:
    first, second = (opened(tmp_path, SHARED, run="lost") for _ in range(2))
    first.ask()
    first.put_back()  # as the others do for one that gives no sign of life
    with pytest.raises(TrialLost):
        first.report(1, 0.5)
    with pytest.raises(TrialLost):
        first.complete_trial()
    with pytest.raises(TrialLost):
        first.fail_trial("boom")
    assert len(search(second)) == 8


def test_no_more_trials_than_asked_for_where_two_ask_at_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(trials=1)
    first, second = (opened(tmp_path, one, run="one") for _ in range(2))
    assert first.ask()
    counted = second._counted
    with monkeypatch.context() as patch:  # as if it had counted before the first took its trial
        counts = iter([[], counted()])
        patch.setattr(second, "_counted", lambda: next(counts))
        assert second._next_trial() is None
    first.report(4, 1.0)
    first.complete_trial()
    assert second.ask() is None
    assert len(second.ended) == 1


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
