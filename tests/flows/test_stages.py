"""What DVC's lines mean, and how a child is ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect.states import Failed

from flows import stages
from flows.graph import Node


def test_only_ingest_is_tried_again_and_not_when_the_values_are_wrong() -> None:
    ingest, pretrain = (
        stages.task_of(Node(name, (), ()), fresh=False, force=False, pull=False)
        for name in ("ingest@web", "pretrain")
    )
    assert (ingest.retries, pretrain.retries) == (2, 0)
    worth = ingest.retry_condition_fn
    assert worth is not None
    for text, again in (("x (exited with 74)", True), ("x (exited with 2)", False), ("x", False)):
        assert worth(None, None, Failed(message=text)) == again  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        (["Stage 'a' didn't change, skipping"], "Cached", "Nothing"),
        (["Stage 'a' is cached - skipping run, checking out outputs"], "Cached", "DVC's cache"),
        (["Running stage 'a':", "> python -m pipelines.a", "a: 12 records"], "Completed", "12 rec"),
        (["Running stage 'a':", "> python -m pipelines.a"], "Completed", "Ran."),
    ],
)
def test_a_stage_that_did_not_run_is_cached(lines: list[str], name: str, message: str) -> None:
    state = stages.outcome("a", lines)
    assert state.is_completed()
    assert state.name == name
    assert message in (state.message or "")


END = "ERROR: failed to reproduce 'a@b': failed to run: python -m a b, exited with 2"
LOST = f"ERROR: failed: [Errno 2] No such file or directory: '{os.getcwd()}/products/data/web'"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["> python -m a b", "a@b: row 3 has no caption", "and more", END],
         "row 3 has no caption (exited with 2)"),
        (["> python -m a b", "Traceback", "RuntimeError: boom", END.replace("with 2", "with -9")],
         "RuntimeError: boom (exited with -9)"),
        (["ERROR: 'x' does not exist"], "'x' does not exist"),
        (["Running stage 'a@b':", LOST], "it reads products/data/web, which is not there: run the "
         "stage that makes it first, or leave --only out"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_one_sentence(lines: list[str], sentence: str) -> None:
    assert stages.sentence("a@b", lines) == f"a@b: {sentence}"


def test_nothing_of_a_session_is_left_when_its_leader_ends(tmp_path: Path) -> None:
    (tmp_path / "leader.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
    )
    code = (
        "import os; from flows.process import in_session; "
        "raise SystemExit(in_session('leader', keep=os.open('/dev/null', 0)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    with contextlib.suppress(psutil.NoSuchProcess):
        left = psutil.Process(int((tmp_path / "pid").read_text()))
        assert left.status() == psutil.STATUS_ZOMBIE or left.wait(timeout=120) is None
