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
from albef.serving.serve import serve

OptionalPath = Path | None
Model = Annotated[str, Option(help="Checkpoint folder, or its name in paths.models.")]
PIPELINE = "run, status, params, plan, compare, ablate, accept, release, fetch, verify, data"
"""Names of the commands in a project's ``flows/cli.py``, for the help outside a project."""
app = Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=f"More commands in the folder of a project: {PIPELINE}.",
)


@app.callback()
def _albef() -> None:
    """Train, evaluate and use ALBEF, a vision-language model."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    words = sys.argv[1:] if arguments is None else arguments
    group = cast(TyperGroup, get_command(app))
    name = next((word for word in words if not word.startswith("-")), "")
    if name not in group.commands:  # The command is in the project's flows, or does not exist.
        if root := find_root():
            _use_code_of(root, words)
            flows = importlib.import_module("flows.cli")
            pipeline = cast(TyperGroup, get_command(flows.app))
            group.commands = {**pipeline.commands, **group.commands}
            group.epilog = None
        elif name in PIPELINE.split(", "):
            project_root()  # Raises the error that there is no project.
    group(words, prog_name="albef")


def _use_code_of(root: Path, words: list[str]) -> None:
    """Run the commands with a project's own code, even if another copy is installed."""
    sys.path.insert(0, str(root))
    ours = Path(albef.__file__).parent
    if (root / "albef" / "cli.py").is_file() and not ours.samefile(root / "albef"):
        if os.environ.get("ALBEF_CODE_OF") == str(root):
            raise SystemExit(
                f"albef: Python imports {ours}, not the code of {root}; fix PYTHONPATH"
            )
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "ALBEF_CODE_OF": str(root)}
        os.execve(sys.executable, [sys.executable, "-m", "albef.cli", *words], environment)


@command(app, "find", at_root=True)
def find(
    text: Annotated[str, Argument(help="Text to search for.")],
    run: Annotated[str, Option(help="Run whose export is used.")] = "retrieval",
    k: Annotated[int, Option("-k", min=1, help="Number of images.")] = 5,
    show: Annotated[bool, Option("--open", help="Open the overview in the image viewer.")] = False,
) -> None:
    """Find the images of a test split that fit a text best.

    Example: albef find "a dog left of an apple" --open
    """
    from albef.commands.find import main
    from albef.commands.project import Project

    project = Project()
    shards = project.shards(run, "test")
    main(project.layout.export(run), shards, text, k, Path(".albef/find"), show=show)


@command(app, "ask", at_root=True)
def ask(
    image: Annotated[Path, Argument(parser=from_root, help="Image file: PNG, JPEG or WebP.")],
    question: Annotated[str, Argument(help="Question about the image.")],
    run: Annotated[str, Option(help="Run of kind vqa whose checkpoint answers.")] = "vqa",
    k: Annotated[int, Option("-k", min=1, help="Number of answers.")] = 5,
) -> None:
    """Answer a question about an image.

    Example: albef ask image.png "how many keys are there?"
    """
    from albef.commands.ask import main
    from albef.commands.project import Project

    main(Project().checkpoint(run), image, question, k)


@command(app, "explain")
def explain(
    image: Annotated[Path, Argument(help="Image file.")],
    text: Annotated[str, Argument(help="Text to find in the image.")],
    model: Model = "retrieval",
    out: Annotated[OptionalPath, Option(help="PNG file to write.")] = None,
) -> None:
    """Show where a model finds a text in an image.

    Example: albef explain image.png "the key left of the apple"
    """
    from albef.commands.explain import main

    main(image, text, _checkpoint(model), out)


@command(app, "embed")
def embed(
    folder: Annotated[Path, Argument(help="Images, with captions in .txt files; or a dataset.")],
    split: Annotated[str, Option(help="Split of a dataset.")] = "test",
    model: Model = "retrieval",
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[Path, Option(help="Parquet file to write.")] = Path("features.parquet"),
) -> None:
    """Write the features of images and captions.

    Example: albef embed photos --model products/exports/retrieval
    """
    from albef.commands.embed import main

    main(folder, split, _export_or_checkpoint(model), device, out)


@command(app, "benchmark")
def benchmark(
    name: Annotated[str, Argument(help="Benchmark, such as winoground or sugarcrepe.")],
    model: Annotated[str, Argument(help="Checkpoint or export; or a name in paths.models.")],
    data: Annotated[Path, Option(help="Folder of the benchmark's files.")],
    images: Annotated[OptionalPath, Option(help="Folder of its images; default: images.")] = None,
    out: Annotated[Path, Option(help="JSON file that gets a row.")] = Path("benchmarks.json"),
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Score a model on a public benchmark, as its authors do.

    Benchmarks: winoground, aro-relation, aro-attribution, coco-order, flickr-order, sugarcrepe,
    vl-checklist, and zero-shot (any set of CLIP-benchmark).

    Example: albef benchmark winoground products/exports/retrieval --data data/winoground
    """
    from albef.commands.benchmark import main

    main(name, _export_or_checkpoint(model), data, images or data / "images", out, device)


@command(app, "import")
def import_checkpoint(
    source: Annotated[Path, Argument(help="Checkpoint of the original code, a .pth file.")],
    target: Annotated[Path, Argument(help="Folder to write, such as models/NAME.")],
    tokenizer: Annotated[
        str, Option(help="A vocab.txt, a folder with it, or a name on Hugging Face.")
    ] = "bert-base-uncased",
    kind: Annotated[str | None, Option(help="Kind of run, if the tensors fit several.")] = None,
    image_size: Annotated[int | None, Option(help="Image side for position embeddings.")] = None,
    heads: Annotated[
        tuple[int, int] | None,
        Option(metavar="IMAGE TEXT", help="Attention heads; default: one per 64 dimensions."),
    ] = None,
    answers: Annotated[OptionalPath, Option(help="JSON list of answers of a VQA model.")] = None,
    no_dvc: Annotated[bool, Option("--no-dvc", help="Do not track the folder with DVC.")] = False,
    back: Annotated[bool, Option("--back", help="Convert from a folder to a .pth file.")] = False,
) -> None:
    """Convert a checkpoint of the original code, or back.

    DVC tracks the folder, and a run can start from it (`init: NAME`). Code in the file is not
    executed.

    Example: albef import ALBEF.pth models/albef
    """
    from albef.commands.importing import main

    sizes = {"image_size": image_size, "heads": heads}
    options = {"tokenizer": tokenizer, "kind": kind, "answers": answers, **sizes}
    main(source, target, track_it=not no_dvc, back=back, **options)


@command(app, "hub")
def hub(
    export: Annotated[Path, Argument(help="Export folder.")],
    card: Annotated[Path, Argument(help="Model card of the report or of a release.")],
    out: Annotated[Path, Argument(help="Folder to write.")],
    licence: Annotated[str, Option("--license", help="Licence of the model, as the Hub names it.")],
    dataset: Annotated[list[str] | None, Option(help="Training dataset; repeatable.")] = None,
) -> None:
    """Write an export as a folder for the Hugging Face Hub.

    Example: albef hub EXPORT CARD.md hub/retrieval --license apache-2.0
    """
    from albef.commands.hub import main

    main(export, card, out, licence, dataset or [])


@command(app, "triton")
def triton(
    export: Annotated[Path, Argument(help="Export folder.")],
    out: Annotated[Path, Argument(help="Folder to write.")],
    precision: Annotated[str | None, Option(help="Weights; default: the export's first.")] = None,
    batch: Annotated[int, Option(min=1, help="Items computed together at most.")] = 8,
) -> None:
    """Write an export as a model repository for NVIDIA Triton.

    Example: albef triton EXPORT triton/retrieval
    """
    from albef.commands.triton import main

    main(export, out, precision, batch)


@command(app, "lineage")
def lineage(
    path: Annotated[Path, Argument(help="Export or other artifact.")],
    as_json: Annotated[bool, Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Print where an artifact comes from, back to the raw source.

    For each export, checkpoint, search, dataset and source, it prints the digest, whether the local
    file matches, and how it was made. The exit code is 1 if a local file differs.

    Example: albef lineage products/exports/retrieval
    """
    from albef.commands.lineage import main

    return main(path, as_json)


command(app, "serve")(serve)


@command(app, "site")
def site(
    export: Annotated[Path, Argument(help="Export that searches.")],
    gallery: Annotated[Path, Argument(help="Folder of images.")],
    out: Annotated[Path, Argument(help="Folder to write.")],
    questions: Annotated[OptionalPath, Option(help="VQA export that answers questions.")] = None,
    precision: Annotated[str | None, Option(help="Weights; default: int8 if available.")] = None,
    packages: Annotated[OptionalPath, Option(help="Folder of npm's files; default: npm's.")] = None,
) -> None:
    """Write a static site that searches images in the browser.

    Example: albef site products/exports/retrieval photos site
    """
    from albef.commands.site import main

    main(export, gallery, out, questions, precision, packages)


def _export_or_checkpoint(model: str) -> Path:
    from albef.runtime.manifest import NAME

    return Path(model) if (Path(model) / NAME).is_file() else _checkpoint(model)


def _checkpoint(model: str) -> Path:
    if (Path(model) / "config.json").is_file() or len(Path(model).parts) > 1:
        return Path(model)
    from albef.commands.project import Project

    return Project(project_root()).layout.model(model)


if __name__ == "__main__":
    main()
