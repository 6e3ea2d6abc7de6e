"""What DVC's lines mean, and how a child is ended."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from prefect.states import Failed

from flows import stages
from flows.graph import Node
from flows.process import in_session


def task(name: str) -> stages.Task[[], stages.State]:
    return stages.task_of(Node(name, (), ()), fresh=False, force=False, pull=False)


def test_only_ingest_is_tried_again_and_not_when_the_values_are_wrong() -> None:
    assert task("ingest@web").retries == 2
    assert task("pretrain").retries == 0
    worth = task("ingest@web").retry_condition_fn
    assert worth is not None
    again = [
        worth(None, None, Failed(message=text))
        for text in ("x (exited with 74)", "x (exited with 2)")
    ]  # type: ignore[arg-type]
    assert again == [True, False]


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        (["Stage 'a' didn't change, skipping"], "Cached", "Nothing"),
        (["Stage 'a' is cached - skipping run, checking out outputs"], "Cached", "DVC's cache"),
        (["Running stage 'a':", "> python -m pipelines.a", "12 records"], "Completed", "Ran"),
    ],
)
def test_a_stage_that_did_not_run_is_cached(lines: list[str], name: str, message: str) -> None:
    state = stages.outcome(lines)
    assert state.is_completed()
    assert state.name == name
    assert message in (state.message or "")


def test_a_failure_is_told_in_the_stages_own_sentence() -> None:
    end = "ERROR: failed to reproduce 'a@b': failed to run: python -m a b, exited with 2"
    own = ["> python -m a b", "a@b: row 3 has no caption", "and more", end]
    assert stages.sentence("a@b", own) == "a@b: row 3 has no caption (exited with 2)"
    crash = ["> python -m a b", "Traceback", "RuntimeError: boom", end.replace("with 2", "with -9")]
    assert stages.sentence("a@b", crash) == "a@b: RuntimeError: boom (exited with -9)"
    assert stages.sentence("a", ["ERROR: 'x' does not exist"]) == "a: 'x' does not exist"


def test_a_stage_alone_whose_input_was_never_made_says_which() -> None:
    path = os.path.join(os.getcwd(), "products", "data", "web")
    lost = f"ERROR: failed to reproduce 'a@b': [Errno 2] No such file or directory: '{path}'"
    assert stages.sentence("a@b", ["Running stage 'a@b':", lost]) == (
        "a@b: it reads products/data/web, which is not there: run the stage that makes it first, "
        "or leave --only out"
    )


def test_nothing_of_a_session_is_left_when_its_leader_ends(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "leader.py")
    with open(path, "w") as file:
        file.write(
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"open({str(path)!r} + '.pid', 'w').write(str(child.pid))\n"
        )
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from flows.process import in_session; "
        "raise SystemExit(in_session('leader', keep=os.open('/dev/null', 0)))"
    )
    assert in_session.__module__ == "flows.process"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=env)
    with open(path + ".pid") as file:
        left = int(file.read())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
