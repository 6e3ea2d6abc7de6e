"""The command: fast help, and sentences where there is nothing to work on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "prefect", "dvc", "timm", "numpy", "pydantic")
COMMANDS = (
    "data check",
    "run",
    "status",
    "compare",
    "accept",
    "release",
    "import",
    "find",
    "ask",
    "explain",
    "embed",
    "submit",
)


def albef(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "albef.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from albef.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("[]")
    for command in COMMANDS:
        assert re.search(rf"\n    {command}\s", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    done = albef(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert f"albef {command}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("status",),
        ("compare", "a", "b"),
        ("find", "a dog"),
        ("ask", "a.png", "what?"),
        ("submit",),
    ],
)
def test_outside_a_project_the_command_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = albef(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"albef: no project at {tmp_path} or above")
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_an_error() -> None:
    assert albef("trian").returncode == 2
