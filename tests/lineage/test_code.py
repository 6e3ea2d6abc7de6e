"""What counts as another code."""

from pathlib import Path

import pytest

from albef.lineage.code import code_digest, said

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


def test_comments_docstrings_and_blank_lines_do_not_count() -> None:
    assert said(BEFORE) == said(AFTER)


@pytest.mark.parametrize(
    ("old", "new"), [("int", "float"), ("no comment", "a comment"), ("+ t", "* t")]
)
def test_everything_else_counts(old: str, new: str) -> None:
    assert said(BEFORE) != said(BEFORE.replace(old, new))


def test_the_digest_is_of_the_files_that_the_graph_lists(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages: {finetune: {foreach: x, do: {deps: [a.py, 'tasks/${item.kind}.py', data/x]}}}"
    )
    (tmp_path / "tasks").mkdir()
    for name in ("a", "tasks/vqa", "tasks/other"):
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    values = {"tasks": {"mine": {"kind": "vqa"}}}
    first = code_digest(tmp_path, "finetune@mine", values)
    (tmp_path / "tasks/other.py").write_text("x = 2\n")
    (tmp_path / "a.py").write_text("x = 1  # as ever\n")
    assert code_digest(tmp_path, "finetune@mine", values) == first
    (tmp_path / "tasks/vqa.py").write_text("x = 2\n")
    assert code_digest(tmp_path, "finetune@mine", values) != first
    (tmp_path / "a.py").unlink()
    assert code_digest(tmp_path, "finetune@mine", values) == ""
    assert code_digest(tmp_path, "nothing", values) == ""
    assert code_digest(tmp_path / "tasks", "finetune@mine", values) == ""
