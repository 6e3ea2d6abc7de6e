"""Run records, and the code that they name."""

import json
import subprocess
from pathlib import Path

import pytest

from albef import run_record
from albef.io import file_digest

RECORD = Path("runs/finetune@vqa.json")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    RECORD.parent.mkdir()


def test_a_record_of_other_artifacts_is_removed() -> None:
    weights = Path("weights")
    weights.write_text("later")
    RECORD.write_text(json.dumps({"made": {"weights": file_digest(weights)}}))
    run_record.discard_foreign(RECORD)
    assert RECORD.exists()
    weights.write_text("earlier")
    run_record.discard_foreign(RECORD)
    assert not RECORD.exists()
    run_record.discard_foreign(RECORD)


BEFORE = '''"""A module."""

import os  # for the folder


class Values:
    """Values."""

    seed: int
    """Of everything."""


def where(path: str) -> str:
    """The folder
    of a path."""
    text = """# no comment"""
    return os.path.dirname(path) + text
'''
AFTER = '''# Another head.

import os
class Values:
    seed: int
def where(path: str) -> str:
    # Why it is so.
    text = """# no comment"""
    return os.path.dirname(path) + text
'''


def test_comments_docstrings_and_blank_lines_are_not_code() -> None:
    stripped = run_record.strip_comments(BEFORE)
    assert stripped == run_record.strip_comments(AFTER)
    for old, new in (("int", "float"), ("no comment", "a comment"), ("+ t", "* t")):
        assert stripped != run_record.strip_comments(BEFORE.replace(old, new))


def test_the_code_of_a_stage_is_what_the_graph_declares_without_that_of_other_kinds() -> None:
    deps = ["albef/a.py", "albef/tasks", "albef/folder", "data/x"]
    stages = {"finetune": {"foreach": "x", "do": {"deps": deps}}}
    values = {"tasks": {"mine": {"kind": "vqa"}}}
    Path("albef/tasks").mkdir(parents=True)
    Path("albef/folder").mkdir()
    for name in ("a", "tasks/vqa", "tasks/other", "folder/b", "tasks/helper", "tasks/task"):
        Path(f"albef/{name}.py").write_text("x = 1\n")
    Path("albef/tasks/vqa.py").write_text("from albef.tasks.helper import x\n")
    Path("albef/folder/b.py").write_text("from albef.tasks.task import x\n")

    def digest(address: str = "finetune@mine") -> str:
        return run_record.code_digest(run_record.used_files(stages, address, values))

    first = digest()
    Path("albef/tasks/other.py").write_text("x = 2\n")
    Path("albef/tasks/new.py").write_text("x = 2\n")
    Path("albef/a.py").write_text("x = 1  # as ever\n")
    assert digest() == first
    for name in ("tasks/vqa", "folder/b", "tasks/helper", "tasks/task"):
        path = Path(f"albef/{name}.py")
        before = path.read_text()
        path.write_text(f"{before}y = 2\n")
        assert digest() != first
        path.write_text(before)
    assert digest() == first
    Path("albef/tasks/helper.py").unlink()
    assert digest() == "", "code that a stage imports is missing"
    Path("albef/tasks/helper.py").write_text("x = 1\n")
    Path("albef/a.py").unlink()
    assert digest() == ""
    assert digest("nothing") == ""


def test_a_record_is_clean_while_a_run_writes_and_not_with_untracked_code() -> None:
    stages = {
        "evaluate": {"do": {"deps": ["albef/tasks", "${evaluate.tests}", "/x"]}},
        "report": {"deps": ["${paths.root}/metrics", "albef/report"]},
    }
    params = {"paths": {"root": "products"}, "evaluate": {"tests": "tests.json"}}
    paths = run_record.inputs(stages, params)
    assert paths == ["albef/report", "albef/tasks", "dvc.yaml", "params.yaml", "tests.json"]
    files = [Path(name) for name in ("dvc.lock", "products/metrics/vqa.json", "tests.json")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def git(command: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *command.split()])

    def is_clean() -> bool | None:
        clean: bool | None = run_record.surroundings(paths)["git"].get("clean")
        return clean

    assert is_clean() is None
    for command in ("init -q", "add -A", "commit -qm start"):
        git(command)
    for file in (*files[:2], Path("notes.txt")):
        file.write_text("written by a run, or by nobody that a stage knows")
    assert is_clean()
    files[2].write_text("changed")
    assert not is_clean()
    git("checkout -q tests.json")
    assert is_clean()
    Path("albef/tasks").mkdir(parents=True)
    Path("albef/tasks/extra.py").touch()
    assert not is_clean()
