"""Registration of functions as ``albef`` commands, and search for the project's root."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from typer import Typer

from albef.io import message_of, printable_output

P = ParamSpec("P")
INTERRUPTED = 130


def command(
    commands: Typer,
    name: str,
    *,
    at_root: bool = False,
    interrupted: str = "interrupted",
) -> Callable[[Callable[P, int | None]], Callable[P, int | None]]:
    """Register a function as the command ``albef NAME``; its return value is the exit code.

    A ValueError, OSError or ImportError is printed as an error message.

    Args:
        commands: application that gets the command.
        name: name of the command.
        at_root: run the command in the root of the project that contains the working folder.
        interrupted: message after Ctrl-C.
    """

    def add(function: Callable[P, int | None]) -> Callable[P, int | None]:
        @functools.wraps(function)
        @printable_output()
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                if at_root:
                    os.chdir(project_root())
                status = function(*args, **kwargs)
                sys.stdout.flush()
            except BrokenPipeError:  # A reader such as `head` closed the output.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                status = 0
            except (ValueError, OSError, ImportError, KeyboardInterrupt) as error:
                if os.environ.get("ALBEF_DEBUG"):
                    raise
                is_interrupt = isinstance(error, KeyboardInterrupt)
                text = interrupted if is_interrupt else message_of(error)
                if isinstance(error, ModuleNotFoundError):
                    text += (
                        "; in a clone, run `pip install '.[serving,cpu]'` for serving or "
                        "`pip install '.[pipeline]'` for everything else"
                    )
                print(f"albef {name}: {text}", file=sys.stderr)
                status = INTERRUPTED if is_interrupt else getattr(error, "exit_code", 2)
            raise SystemExit(status or 0)

        commands.command(name.split()[-1])(run)
        return function

    return add


def project_root() -> Path:
    """Return the project's root, which is the working folder or one of its parents."""
    if root := find_root():
        return root
    raise SystemExit(
        f"albef: no project in {Path.cwd()} or above (params.yaml and dvc.yaml); change to the "
        "folder of your clone"
    )


def find_root(path: Path = Path()) -> Path | None:
    """Return the root of the project around a path (the working folder), or None outside one."""
    path = path.resolve()
    for folder in (path, *path.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    return None


def from_root(path: str) -> Path:
    """Return a path of the command line relative to the root of the project."""
    return Path(os.path.relpath(path, find_root()))
