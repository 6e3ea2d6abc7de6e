"""The ``albef`` command. No large package is imported before the command is known.

These commands need no project, or only its params.yaml. Commands that run the pipeline are in the
project's own ``flows/cli.py``. It is imported if the working folder is in a project.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, cast

from typer import Argument, Option, Typer
from typer.core import TyperGroup
from typer.main import get_command

import albef
from albef.commands.command import command, find_root, from_root, project_root
from albef.layout import Engine
from albef.serving.serve import serve

Model = Annotated[str, Option(help="Folder of a checkpoint, or its name under paths.models.")]
PIPELINE = "run, status, params, compare, ablate, accept, release, fetch, verify, data"
"""Names of the commands in a project's ``flows/cli.py``, for the help outside a project."""
app = Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=f"In a project (params.yaml and dvc.yaml) there are also: {PIPELINE}.",
)


@app.callback()
def _albef() -> None:
    """Train, follow and use ALBEF, a vision-language model."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    words = sys.argv[1:] if arguments is None else arguments
    group = cast(TyperGroup, get_command(app))
    name = next((word for word in words if not word.startswith("-")), "")
    if name not in group.commands:  # The command is in the project's flows, or does not exist.
        if root := find_root():
            _take_code_of(root, words)
            flows = importlib.import_module("flows.cli")
            pipeline = cast(TyperGroup, get_command(flows.app))
            group.commands = {**pipeline.commands, **group.commands}
            group.epilog = None
        elif name in PIPELINE.split(", "):
            project_root()  # Raises the error that there is no project.
    group(words, prog_name="albef")


def _take_code_of(root: Path, words: list[str]) -> None:
    """Run the commands with a project's own code, even if another copy is installed."""
    sys.path.insert(0, str(root))
    ours = Path(albef.__file__).parent
    if (root / "albef" / "cli.py").is_file() and not ours.samefile(root / "albef"):
        if os.environ.get("ALBEF_CODE_OF") == str(root):
            raise SystemExit(f"albef: the code of {root} is not what Python finds, but {ours} is")
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "ALBEF_CODE_OF": str(root)}
        os.execve(sys.executable, [sys.executable, "-m", "albef.cli", *words], environment)


@command(app, "find", code=1, at_root=True)
def find(
    text: Annotated[str, Argument(help="What to look for, as 'a dog left of an apple'.")],
    run: Annotated[str, Option(help="The run whose export looks.")] = "retrieval",
    k: Annotated[int, Option("-k", help="How many pictures.")] = 5,
    show: Annotated[bool, Option("--open", help="Open them in the picture viewer.")] = False,
) -> None:
    """Find the images of a test split that fit a text best."""
    from albef.commands.find import main
    from albef.commands.project import Project

    project = Project()
    shards = project.shards(run, "test")
    main(project.layout.export(run), shards, text, k, Path(".albef/find"), show=show)


@command(app, "ask", code=1, at_root=True)
def ask(
    image: Annotated[Path, Argument(parser=from_root, help="A PNG, JPEG or WebP file.")],
    question: Annotated[str, Argument(help="As 'how many keys are there?'.")],
    run: Annotated[str, Option(help="The run whose checkpoint answers.")] = "vqa",
    k: Annotated[int, Option("-k", help="How many answers.")] = 5,
) -> None:
    """Answer a question about an image."""
    from albef.commands.ask import main
    from albef.commands.project import Project

    main(Project().checkpoint(run), image, question, k)


@command(app, "explain", code=1)
def explain(
    image: Annotated[Path, Argument(help="The picture.")],
    text: Annotated[str, Argument(help="What to look for, as 'the key left of the apple'.")],
    model: Model = "retrieval",
    layer: Annotated[int | None, Option(help="Fusion layer looked into, from 0.")] = None,
    out: Annotated[Path | None, Option(help="The figure, a PNG file.")] = None,
) -> None:
    """Show where in an image a model finds a text."""
    from albef.commands.explain import main

    main(image, text, _checkpoint(model), layer, out)


@command(app, "embed", code=1)
def embed(
    folder: Annotated[
        Path, Argument(help="Pictures, captions in .txt files beside them; or a data set.")
    ],
    split: Annotated[str, Option(help="The split of a data set.")] = "test",
    model: Model = "retrieval",
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[Path, Option(help="The Parquet file.")] = Path("features.parquet"),
    engine: Annotated[Engine, Option(help="This machine, or a cluster of Ray.")] = "local",
) -> None:
    """Write the features of a folder's images and captions, from a checkpoint or an export."""
    from albef.commands.embed import main
    from albef.runtime.manifest import NAME

    is_export = (Path(model) / NAME).is_file()
    main(folder, split, Path(model) if is_export else _checkpoint(model), device, out, engine)


@command(app, "submit", code=1, at_root=True)
def submit(
    run: Annotated[str, Option(help="The evaluated run.")] = "vqa",
    split: Annotated[str, Option(help="Whose questions are answered.")] = "test",
    out: Annotated[Path, Option(parser=from_root, help="The file to write.")] = Path(
        "submission.json"
    ),
    check: Annotated[
        Path | None, Option(parser=from_root, help="Check this file, and write none.")
    ] = None,
) -> None:
    """Write or check the answers of a VQA run for a challenge."""
    from albef.commands.project import Project
    from albef.commands.submit import main

    project = Project()
    main(project.dataset(run), project.layout.predictions(run), split, out, check)


@command(app, "import")
def import_checkpoint(
    source: Annotated[Path, Argument(help="The original's .pth file.")],
    target: Annotated[Path, Argument(help="The folder to make, as models/NAME.")],
    tokenizer: Annotated[
        str, Option(help="A vocab.txt, a folder with it, or a Hugging Face name.")
    ] = "bert-base-uncased",
    kind: Annotated[
        str | None, Option(help="Of the run that made it, if names leave that open.")
    ] = None,
    image_size: Annotated[int | None, Option(help="Resize position embeddings to it.")] = None,
    heads: Annotated[
        tuple[int, int] | None,
        Option(metavar="IMAGE TEXT", help="Of attention; else one for each 64."),
    ] = None,
    answers: Annotated[
        Path | None, Option(help="A JSON list: what a VQA checkpoint chooses from.")
    ] = None,
    no_dvc: Annotated[bool, Option("--no-dvc", help="Leave DVC alone.")] = False,
    back: Annotated[bool, Option("--back", help="From a folder of ours to a .pth file.")] = False,
) -> None:
    """Convert a checkpoint of the original code to this project's format, or back.

    DVC tracks it, and a run can start from it (`init: NAME`). Nothing in the file is executed.
    """
    from albef.commands.importing import main

    options = (tokenizer, kind, image_size, heads, answers)
    main(source, target, *options, track_it=not no_dvc, back=back)


@command(app, "hub")
def hub(
    export: Annotated[Path, Argument(help="The folder of an export.")],
    card: Annotated[Path, Argument(help="Its model card, a page of the report or of a release.")],
    out: Annotated[Path, Argument(help="The folder to make.")],
    licence: Annotated[str, Option("--license", help="The model's, by the Hub's name of it.")],
    dataset: Annotated[
        list[str] | None, Option(help="A data set that it learned from, by its name on the Hub.")
    ] = None,
) -> None:
    """Write an export in the layout that the Hugging Face Hub and transformers.js expect."""
    from albef.commands.hub import main

    main(export, card, out, licence, dataset or [])


@command(app, "lineage")
def lineage(
    path: Annotated[Path, Argument(help="An export, or another artifact.")],
    as_json: Annotated[bool, Option("--json", help="Everything, as JSON.")] = False,
) -> int:
    """Print the lineage of an artifact, back to the raw source.

    The lineage has the export, checkpoint, search, datasets and sources. For each it prints the
    digest, whether the local file matches, and how it was made. The exit code is 1 if a local file
    differs.
    """
    from albef.commands.lineage import main

    return main(path, as_json)


command(app, "serve", code=1)(serve)


@command(app, "site", code=1)
def site(
    export: Annotated[Path, Argument(help="The export that searches.")],
    gallery: Annotated[Path, Argument(help="The folder of pictures.")],
    out: Annotated[Path, Argument(help="The folder to make.")],
    questions: Annotated[
        Path | None, Option(help="A VQA export, to be asked about pictures.")
    ] = None,
    precision: Annotated[str | None, Option(help="Of the weights; int8 if not given.")] = None,
    package: Annotated[
        Path | None, Option(help="File of npm's onnxruntime-web; fetched by npm if not given.")
    ] = None,
) -> None:
    """Write a static site that searches its images in the browser, without a server."""
    from albef.commands.site import main

    main(export, gallery, out, questions, precision, package)


def _checkpoint(model: str) -> Path:
    """Return the folder of a checkpoint, given its path or its name in the project."""
    if (Path(model) / "config.json").is_file():
        return Path(model)
    from albef.commands.project import Project

    return Project(project_root()).layout.model(model)


if __name__ == "__main__":
    main()
