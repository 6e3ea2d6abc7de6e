"""The ``albef`` command. It imports nothing heavy before it knows what is asked of it."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

PIPELINE = {
    "run": ("flows.run", "bring the pipeline up to date"),
    "status": ("flows.status", "what is fresh, stale (and why) or running; the last results"),
    "compare": (
        "flows.experiments.compare",
        "experiments or git revisions side by side",
    ),
    "ablate": (
        "flows.experiments.ablate",
        "a ladder of variations over seeds and caption noise, as a table",
    ),
    "accept": ("flows.accept", "take an edit of code as one that changes no product"),
    "release": ("flows.releases.release", "an export into production behind a gate, or back"),
    "data accept": ("flows.accept_profile", "take a data set as what later versions are held to"),
    "data docs": ("pipelines.data_docs", "a validation as the Data Docs of Great Expectations"),
    "data check": ("pipelines.check", "what ingest would do with the first rows of a source"),
    "ask": ("albef.commands.ask", "answers to a question about a picture"),
}
"""Commands of a project, run at its root: the module that becomes this process, and what for."""
LIBRARY = {
    "import": (
        "albef.commands.importing",
        "a checkpoint of the original code into one of ours, and back",
    ),
    "lineage": ("albef.commands.lineage", "where a product comes from, back to the raw source"),
    "serve": ("albef.serving.serve", "exported models over HTTP, with a page"),
}
"""Commands that need no project: the same."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    given = sys.argv[1:] if arguments is None else arguments
    for words in (2, 1):
        name = " ".join(given[:words])
        if name in PIPELINE:  # the module has the options, and says what they are
            os.environ["ALBEF_FROM"] = str(Path.cwd())  # paths of the command are relative to it
            _go_to_root()  # where flows/ is
            _become(PIPELINE[name][0], given[words:])
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
    explain = commands.add_parser("explain", help="where in a picture a model finds a text")
    explain.add_argument("image", help="path of the picture")
    explain.add_argument("text", help="what to look for, as 'the key left of the apple'")
    explain.add_argument("--layer", type=int, help="fusion layer that is looked into, from 0")
    explain.add_argument("--out", help="path of the figure, a PNG file")
    explain.set_defaults(command=_with_checkpoint, name="explain")
    embed = commands.add_parser("embed", help="features of a folder's pictures and captions")
    embed.add_argument(
        "folder", help="of pictures, captions in .txt files beside them; or a data set"
    )
    embed.add_argument("--split", default="test", help="the split of a data set")
    embed.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    embed.add_argument("--out", default="features.parquet", help="path of the Parquet file")
    embed.set_defaults(command=_with_checkpoint, name="embed")
    for command in (explain, embed):
        command.add_argument(
            "--model",
            default="retrieval",
            help="folder of a checkpoint, or its name under paths.models",
        )
    submit = commands.add_parser(
        "submit", help="write the answers of a VQA run as a challenge takes them, or check a file"
    )
    submit.add_argument("--run", default="vqa", help="the evaluated run")
    submit.add_argument("--split", default="test", help="whose questions are answered")
    submit.add_argument("--out", default="submission.json", help="the file to write")
    submit.add_argument("--check", metavar="FILE", help="check this file, and write none")
    submit.set_defaults(command=_submit)
    return parser


def _submit(options: argparse.Namespace) -> None:
    from albef.commands.submit import main as submit

    here = Path.cwd()
    options.out = here / options.out
    options.check = here / options.check if options.check else None
    _go_to_root()
    with _sentences("submit"):
        submit(options)


def _find(options: argparse.Namespace) -> None:
    from albef.commands.find import main as find

    _go_to_root()
    with _sentences("find"):
        find(options)


def _with_checkpoint(options: argparse.Namespace) -> None:
    """Run a command that needs torch, in the working folder: its paths are relative to it."""
    with _sentences(options.name):
        options.model = _checkpoint(options.model)
        module = importlib.import_module(f"albef.commands.{options.name}")
        module.main(options)


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Errors of a command as one sentence each; an output that nobody reads on is none."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # as before `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"albef {name}: {error}") from None


def _checkpoint(given: str) -> Path:
    """The folder of a checkpoint, or of the one with this name in the project around."""
    from albef.config import read_yaml, validate
    from albef.layout import PARAMS, Layout, Paths

    if (Path(given) / "config.json").is_file():
        return Path(given)
    root = _root()
    params = root / PARAMS
    paths = validate(Paths, read_yaml(params).get("paths"), where=str(params), key="paths")
    return root / Layout(paths).model(given)


def _become(module: str, arguments: list[str]) -> None:
    """Turn this process into a module, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def _go_to_root() -> None:
    """Change to the project's root, at or above the working folder."""
    os.chdir(_root())


def _root() -> Path:
    """The project's root, at or above the working folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").exists() and (folder / "dvc.yaml").exists():
            return folder
    raise SystemExit(
        f"albef: no project at {here} or above (a folder with params.yaml and dvc.yaml); "
        "change to your clone first"
    )


if __name__ == "__main__":
    main()
