"""The ``albef`` command. It imports nothing heavy before it knows what is asked of it."""

import argparse
import os
import sys
from pathlib import Path

PIPELINE = {
    "run": ("flows.run", "bring the pipeline up to date"),
    "status": ("flows.status", "what is fresh, stale (and why) or running; the last results"),
    "accept": ("flows.accept", "take an edit of code as one that changes no product"),
}
"""Commands of the pipeline: the module that becomes this process, and what it is for."""
LIBRARY = {
    "import": ("albef.importing", "a checkpoint of the original code into one of ours, and back"),
}
"""Commands that need no project: the same."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in PIPELINE:  # the module has the options, and says what they are
        os.environ["ALBEF_FROM"] = str(Path.cwd())  # paths on the command line are relative to it
        _go_to_root()  # where flows/ is
        _become(PIPELINE[given[0]][0], given[1:])
    if given and given[0] in LIBRARY:
        _become(LIBRARY[given[0]][0], given[1:])
    options = _parser().parse_args(given)
    options.command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="albef", description="Train, follow and use ALBEF, a vision-language model."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (_, purpose) in (PIPELINE | LIBRARY).items():
        commands.add_parser(name, help=purpose, add_help=False)
    find = commands.add_parser("find", help="the pictures of a test split that fit a text best")
    find.add_argument("text", help="what to look for, as 'a dog left of an apple'")
    find.add_argument("--run", default="retrieval", help="the run whose export looks")
    find.add_argument("-k", type=int, default=5, help="how many pictures")
    find.add_argument("--open", action="store_true", help="open them in the picture viewer")
    find.set_defaults(command=_find)
    return parser


def _find(options: argparse.Namespace) -> None:
    from albef.find import main as find

    _go_to_root()
    try:
        find(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"albef find: {error}") from None


def _become(module: str, arguments: list[str]) -> None:
    """Turn this process into another module, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def _go_to_root() -> None:
    """Change to the project's root, at or above the working folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            os.chdir(folder)
            return
    raise SystemExit(
        f"albef: no project at {here} or above (a folder with params.yaml and dvc.yaml); "
        "change to your clone first"
    )


if __name__ == "__main__":
    main()
