"""The guides that edit code: their blocks are applied to a clone, and their commands are run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.test_staleness import clone

GUIDES = Path(__file__).parents[1] / "docs/how-to"
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.M | re.S)
PLACE = re.compile(r"(Create|Append to) `([^`]+)`:\s*$")
"""End of the text before a block that is a new file or the end of a file."""


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Text before each block of a page, its language and its content, without indentation."""
    end = 0
    for match in BLOCK.finditer(page):
        lines = match[3].splitlines()
        content = "".join(f"{line.removeprefix(match[1])}\n" for line in lines)
        yield page[end : match.start()], match[2], content
        end = match.end()


def patch(diff: str) -> None:
    """Apply hunks without line numbers; the lines that they replace occur once in the file."""
    first, *hunks = re.split(r"^@@\n", diff, flags=re.M)
    path = Path(first.removeprefix("+++ ").strip())
    text = path.read_text()
    for hunk in hunks:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, f"{path} does not have once:\n{old}"
        text = text.replace(old, new)
    path.write_text(text)


def follow(page: str) -> list[str]:
    """Do what a guide says; return its commands."""
    commands = []
    for before, language, content in blocks(page):
        place = PLACE.search(before)
        if language == "diff":
            patch(content)
        elif language == "python":
            assert place, f"the guide does not say where this goes:\n{content}"
            is_new = place[1] == "Create"
            with Path(place[2]).open("x" if is_new else "a") as file:
                file.write(content if is_new else f"\n\n{content}")
        elif not language:
            commands += [line for line in content.splitlines() if not line.startswith("albef ")]
    return commands


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["add-a-metric", "add-a-loss", "add-a-call"])
def test_a_guide_can_be_followed(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    commands = follow((GUIDES / f"{guide}.md").read_text())
    checks = [
        "ruff check .",
        "ruff format --check .",
        "pytest tests/test_documented.py -k generated",
    ]
    assert any(command.startswith("pytest ") for command in commands)
    for command in [*commands, *checks]:
        words = shlex.split(command)
        words = words[1:] if words[0] == "python" else ["-m", *words]
        options = ["-n", "0"] if "pytest" in words else []
        ended = subprocess.run(
            [sys.executable, *words, *options],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "project")},
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, (command, ended.stdout[-3000:], ended.stderr[-1000:])
