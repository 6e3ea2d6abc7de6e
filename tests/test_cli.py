"""The command: fast help, sentences where there is nothing to work on, and whose code runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from albef.cli import main

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "prefect", "dvc", "timm", "numpy", "pandas", "rich", "fastapi")
COMMANDS = {
    "": "run status params plan compare ablate accept release fetch verify data find ask explain "
    "embed benchmark import hub triton lineage serve site",
    "data": "check accept page",
}
"""Commands by what stands before them."""


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    for group, commands in COMMANDS.items():
        code = (
            "import sys; from albef.cli import main\n"
            f"try: main({[*group.split(), '--help']!r})\n"
            f"finally: print(sorted(set({HEAVY!r}) & set(sys.modules)))"
        )
        done = python("-c", code)
        assert done.returncode == 0
        assert done.stdout.rstrip().endswith("[]")
        assert not re.search(r"(?m)^  .*\.\.\.$", done.stdout), "a line is cut at 80 columns"
        listed = re.findall(r"(?m)^  ([a-z]+)\s+[A-Z]", done.stdout)
        assert sorted(listed) == sorted(commands.split())


def test_outside_a_project_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("run", "compare a b", "data check x", "find dog", "ask a.png what"):
        with pytest.raises(SystemExit, match=re.escape(f"no project in {tmp_path} or above")):
            main(command.split())


def test_an_unknown_command_or_option_is_an_error_that_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, says in (
        (["statsu"], "Did you mean 'status'?"),
        (["run", "--onyl", "ingest"], "--only"),
        (["find"], "Missing argument"),
        (["serve", "x", "--port", "70000"], "--port"),
        (["run", "--seeds", "2", "--dry"], "cannot be combined with --only, --force or --dry"),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert says in capsys.readouterr().err


def test_the_code_of_the_project_runs_though_another_is_installed(tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    for name in ("albef", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "albef/cli.py").write_text("import sys; print('mine', *sys.argv[1:])")
    (tmp_path / "below").mkdir()
    done = python("-m", "albef.cli", "run", "--dry", cwd=tmp_path / "below")
    assert (done.returncode, done.stdout) == (0, "mine run --dry\n"), done.stderr


EVERY_COMMAND = """
import json, sys
from typer.main import get_command
import albef.cli, flows.cli
from albef.cli import main
for names in json.loads(sys.argv[1]):
    command = get_command(albef.cli.app)
    command.commands |= get_command(flows.cli.app).commands
    for name in names:
        command = command.commands[name]
    print(*names, flush=True)
    count = sum(it.param_type_name == "argument" and it.required for it in command.params)
    options = [it for it in command.params if it.required and it.opts[0][0] == "-"]
    given = [f"{it.opts[0]}=\\x1b[31mx" for it in options]
    try:
        main([*names, *given, *["\\x1b[31m\\x9bx"] * count])
    except SystemExit as end:
        print(end, file=sys.stderr)
"""


@pytest.mark.slow
def test_no_command_prints_what_controls_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    odd = '"\\e[31mkey\\x9b": 1'
    (tmp_path / "params.yaml").write_text(f"{odd}\npaths: {{root: a, models: b, {odd}}}\n")
    names = [[*group.split(), name] for group, words in COMMANDS.items() for name in words.split()]
    done = python(
        "-c", EVERY_COMMAND, json.dumps([it for it in names if it != ["data"]]), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "data page"
    assert done.stderr.count("u001b[31m") > 12
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", done.stdout + done.stderr)


def test_an_output_that_nobody_reads_on_is_not_an_error(tiny_export: Path) -> None:
    """As before ``| head -1``: the reader has gone when the second line comes."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "albef.cli", "lineage", str(tiny_export)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        errors = command.stderr.read()
    assert (command.returncode, errors) == (0, "")


def test_a_library_that_is_not_installed_is_a_sentence() -> None:
    for module, arguments in (
        ("torch", ["explain", "a.png", "a dog"]),
        ("fastapi", ["serve", "export"]),
    ):
        code = f"import sys; sys.modules[{module!r}] = None; from albef.cli import main; "
        done = python("-c", f"{code} main({arguments})")
        assert done.stderr.startswith(f"albef {arguments[0]}: import of {module} halted")
        assert "pip install '.[pipeline]'" in done.stderr
