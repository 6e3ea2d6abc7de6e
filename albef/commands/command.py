"""How a function becomes a command of ``albef``, and the project that it works in."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from typer import Typer

P = ParamSpec("P")
INTERRUPTED = 130


def command(
    commands: Typer,
    name: str,
    *,
    code: int = 2,
    at_root: bool = False,
    interrupted: str = "interrupted",
) -> Callable[[Callable[P, int | None]], Callable[P, int | None]]:
    """Make a function the command ``albef NAME``; what it returns is the exit code.

    Its errors are a sentence each, after exit code ``code`` where they have no ``exit_code``, and
    an output that nobody reads on is none. ``at_root`` says whether it works in the root of the
    project around, ``interrupted`` what is said after Ctrl-C.
    """

    def add(function: Callable[P, int | None]) -> Callable[P, int | None]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                if at_root:
                    os.chdir(project_root())
                status = function(*args, **kwargs)
                sys.stdout.flush()
            except BrokenPipeError:  # as before `| head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                status = 0
            except (ValueError, OSError, ImportError, KeyboardInterrupt) as error:
                if os.environ.get("ALBEF_DEBUG"):
                    raise
                is_interrupt = isinstance(error, KeyboardInterrupt)
                text = interrupted if is_interrupt else f"{error}"
                if isinstance(error, ModuleNotFoundError):
                    text += (
                        "; in a clone, `pip install '.[serving,cpu]'` has what serves, "
                        "'.[pipeline]' all else"
                    )
                print(f"albef {name}: {text}", file=sys.stderr)
                status = INTERRUPTED if is_interrupt else getattr(error, "exit_code", code)
            raise SystemExit(status or 0)

        commands.command(name.split()[-1])(run)
        return function

    return add


def project_root() -> Path:
    """The project's root, at or above the working folder."""
    if root := find_root():
        return root
    raise SystemExit(
        f"albef: no project at {Path.cwd()} or above (a folder with params.yaml and dvc.yaml); "
        "change to your clone first"
    )


def find_root() -> Path | None:
    """The root of the project at or above the working folder, if there is one."""
    cwd = Path.cwd()
    for folder in (cwd, *cwd.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    return None


def from_root(path: str) -> Path:
    """A path of the command line, from the root of the project."""
    return Path(os.path.relpath(path, find_root()))
