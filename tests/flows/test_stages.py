"""What is said of a failure, and how a child is ended."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo

from albef.config import read_yaml
from flows import stages
from flows.process import _reproduce


def test_a_warning_of_dvc_is_printed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(stages.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    Path("dvc.yaml").write_text("stages: {a: {cmd: mkdir a, outs: [a]}}")
    child = [sys.executable, "-m", "flows.process", str(os.getpid()), "reproduce"]
    ended = subprocess.run([*child, '{"names": ["a"]}'], capture_output=True, text=True)
    assert ended.stderr.count("'a' is empty") == 1, ended.stderr


def test_a_failure_is_reported_in_one_line() -> None:
    lines = ["a@b: row 3 has no caption", "and more"]
    assert stages.failure_message("a@b", lines, 2) == "a@b: row 3 has no caption (exit code 2)"
    assert stages.failure_message("a@b", [], 255) == "a@b: no output (exit code 255)"
    killed = "a@b: its process was ended by SIGKILL, as happens if memory is short (exit code 137)"
    assert stages.failure_message("a@b", ["9 rows, 3 per second"], 137) == killed


def test_a_flow_imports_no_server_and_reads_no_tables() -> None:
    heavy = {"pandas", "prefect.server", "pyarrow", "scipy", "torch"}
    code = f"import sys, flows.train; assert not {heavy!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_of_a_session_is_left_when_its_leader_ends(tmp_path: Path) -> None:
    (tmp_path / "leader.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
    )
    code = (
        "import os; from flows.process import run_in_session; "
        "raise SystemExit(run_in_session('leader', keep=os.open('/dev/null', 0)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    with contextlib.suppress(psutil.NoSuchProcess):
        left = psutil.Process(int((tmp_path / "pid").read_text()))
        assert left.status() == psutil.STATUS_ZOMBIE or left.wait(timeout=120) is None


def test_what_changes_while_a_stage_runs_is_recorded_as_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "cp params.yaml made && echo 'a: 2' > params.yaml && rm code"
    stage = {"cmd": command, "params": ["a"], "deps": ["code"], "outs": ["made"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"one": stage}}))
    Path("params.yaml").write_text("a: 1\n")
    Path("code").write_text("old")
    Repo.init(".", no_scm=True).close()
    assert _reproduce(["one"], alone=True, force=True) == 0
    locked = read_yaml(Path("dvc.lock"))["stages"]["one"]
    assert locked["params"] == {"params.yaml": {"a": 1}}
    assert locked["deps"][0]["md5"] == hashlib.md5(b"old", usedforsecurity=False).hexdigest()
    assert Path("made").read_text() == "a: 1\n"
