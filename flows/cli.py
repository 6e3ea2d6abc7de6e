"""Commands that run the pipeline of a project, in the project's root."""

import os
import signal
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option, Typer

from albef.commands.command import command, from_root, project_root

app = Typer(rich_markup_mode=None)
data = Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Look into data, and say what later versions are held to.",
)
app.add_typer(data, name="data")
Names = list[str] | None


def _stop_on_signals() -> None:
    """Raise KeyboardInterrupt on the signals that end a command."""
    # A shell ignores SIGINT for a command that it starts with `&`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@command(app, "run", at_root=True, interrupted="interrupted; `albef run` goes on from here")
def run(
    preset: Annotated[str | None, Option(help="Take presets/PRESET.yaml first.")] = None,
    overrides: Annotated[
        Names, Option("--set", metavar="KEY=VALUE", help="Change a value of params.yaml.")
    ] = None,
    only: Annotated[
        Names, Option(metavar="STAGE", help="Run this alone: NAME, or NAME@KEY.")
    ] = None,
    force: Annotated[
        Names, Option(metavar="STAGE", help="Run this although nothing changed.")
    ] = None,
    name: Annotated[str | None, Option(help="Record the run as this experiment.")] = None,
    seeds: Annotated[
        int | None, Option(min=1, help="Run under so many seeds, each recorded, as NAME-seed1.")
    ] = None,
    dry: Annotated[bool, Option("--dry", help="Only say what would run, and why.")] = False,
) -> int:
    """Bring the pipeline up to date.

    You can repeat --set, --only and --force. The exit code is 1 for a failed stage, 2 for wrong
    values, 130 when interrupted.
    """
    from flows.experiments.seeds import run_seeds
    from flows.results import show_progress
    from flows.run import run

    show_progress()
    _stop_on_signals()
    if seeds is None:
        return run(preset, overrides or (), only or (), force or (), name, dry=dry)
    options = {"--only": only, "--force": force, "--dry": dry}
    unwanted = [option for option, value in options.items() if value]
    return run_seeds(preset, overrides or (), name, seeds, unwanted)


@command(app, "status", at_root=True)
def status() -> None:
    """Show which stages are fresh, stale (and why) or running."""
    from flows.status import report

    print(report())


@command(app, "params", at_root=True)
def params(
    section: Annotated[str, Argument(help="A key, as tasks.retrieval; if not given, all.")] = "",
    preset: Annotated[str | None, Option(help="Those of presets/PRESET.yaml.")] = None,
) -> None:
    """Print all current values with their descriptions.

    Defaults are included. Each value is followed by its origin.
    """
    from flows.values import file_of
    from pipelines.params import explain

    print(explain(file_of(preset), section))


@command(app, "compare", code=1, at_root=True)
def compare(
    revisions: Annotated[
        list[str],
        Argument(
            metavar="REVISION",
            help="An experiment, branch, tag or commit, or `workspace`; the first is the baseline.",
        ),
    ],
    curve: Annotated[
        Path | None, Option(parser=from_root, help="Reference curves to lay over the others.")
    ] = None,
    save_curve: Annotated[
        Path | None, Option(parser=from_root, help="Write the baseline's curves as such a file.")
    ] = None,
    out: Annotated[
        Path | None, Option(parser=from_root, help="The page; else it goes to .albef/compare/.")
    ] = None,
    examples: Annotated[int, Option(help="Answers shown that turned, each way.")] = 6,
    stepwise: Annotated[
        bool, Option("--stepwise", help="Hold each group of seeds against the one before it.")
    ] = False,
) -> int:
    """Compare experiments or git revisions.

    The comparison shows stored values, data, metrics, curves, and the answers that changed. No
    stage runs again.
    """
    from flows.experiments.compare import compare

    return compare(revisions, curve, save_curve, out, examples, stepwise=stepwise)


@command(app, "ablate", at_root=True, interrupted="interrupted; the same command goes on from here")
def ablate(
    noise: Annotated[
        list[float] | None,
        Option(
            min=0, max=1, help="Share of wrong captions; may be repeated; 0 and 0.4 if not given."
        ),
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Seeds of each.")] = 3,
    preset: Annotated[str, Option(help="presets/PRESET.yaml, the last step.")] = "ablation",
    ladder: Annotated[str, Option(help="ablations/LADDER.yaml, the steps.")] = "paper",
    name: Annotated[
        str | None, Option(help="What the experiments' begin with; the preset's if not given.")
    ] = None,
    jobs: Annotated[
        int | None,
        Option(
            min=1,
            help="Trainings at once; if not given, on CPUs as runtime.threads leaves cores.",
        ),
    ] = None,
    show: Annotated[bool, Option("--show", help="Train nothing, show what is there.")] = False,
) -> None:
    """Train the steps of an ablation over caption noise and seeds, and compare them.

    Each training is recorded as an experiment. Trainings that are already recorded are not
    repeated. The comparison is that of `albef compare --stepwise`.
    """
    from flows.experiments.ablate import ablate
    from flows.results import show_progress

    show_progress()
    _stop_on_signals()
    ablate(noise or [0.0, 0.4], seeds, preset, ladder, name, jobs, show=show)


@command(app, "accept", at_root=True)
def accept(
    files: Annotated[
        list[Path], Argument(parser=from_root, metavar="FILE", help="Edited code, or its folder.")
    ],
) -> int:
    """Accept edits of code that you know change no artifact.

    Stages that depend on the files stay fresh if nothing but code differs. The exit code is 1 if a
    stage refused, 2 if there was nothing to accept.
    """
    from flows.accept import accept_files

    return accept_files(files)


@command(app, "release", at_root=True, interrupted="interrupted; nothing was released")
def release(
    run: Annotated[str, Argument(help="An entry of export.runs.")],
    approve: Annotated[
        bool, Option("--approve", help="Do it; someone has read the comparison.")
    ] = False,
    stage: Annotated[str, Option(help="What the version is to hold.")] = "prod",
    bump: Annotated[
        Literal["patch", "minor", "major"], Option(help="Part of the version that counts up.")
    ] = "minor",
    back: Annotated[
        bool, Option("--back", help="Let the version before hold the stage again.")
    ] = False,
    dry: Annotated[
        bool, Option("--dry", help="Show the model card too, and change nothing.")
    ] = False,
    accept_limits: Annotated[
        bool,
        Option("--accept-limits", help="Judge by limits that the released version did not have."),
    ] = False,
    key: Annotated[
        Path | None,
        Option(
            envvar="ALBEF_SIGNING_KEY",
            parser=from_root,
            help="Sign with this private key: a PEM file outside of the project.",
        ),
    ] = None,
) -> None:
    """Release an evaluated export if it passes a gate, or go back to the previous version.

    The export is compared with the released one. It is released if it passes the gate (params.yaml,
    release) and --approve is given. Without --approve nothing changes, and the exit code is 0 if it
    would be released, 1 if not.
    """
    from flows.releases.release import main

    _stop_on_signals()
    approve = approve and not dry
    options = {"approve": approve, "back": back, "dry": dry, "accept_limits": accept_limits}
    main(run, stage, bump, key=key, **options)


@command(app, "fetch", at_root=True, interrupted="interrupted; the same command goes on")
def fetch(
    released: Annotated[
        list[str], Argument(metavar="RUN#STAGE", help="A run, and the stage of the registry.")
    ],
    key: Annotated[
        Path | None,
        Option(
            parser=from_root,
            help="Refuse what the owner of this public key, a PEM file, did not sign.",
        ),
    ] = None,
) -> None:
    """Fetch the released exports that hold stages, and print a link to each.

    When another version holds the stage and is completely fetched, the link leads to that version.
    """
    from flows.releases.fetch import main

    _stop_on_signals()
    for link in main(released, key):
        print(link, flush=True)


@command(app, "verify", at_root=True, interrupted="interrupted; nothing was verified")
def verify(
    export: Annotated[Path, Argument(parser=from_root, help="The folder that was fetched.")],
    release: Annotated[
        Path, Argument(parser=from_root, help="What is told of it: releases/RUN/VERSION.")
    ],
    key: Annotated[
        Path, Option(parser=from_root, help="The public key of who released it, a PEM file.")
    ],
    replay: Annotated[
        str | None,
        Option(metavar="STAGE", help="Run this stage again and compare; `any` draws one."),
    ] = None,
    seed: Annotated[int, Option(help="Of the draw.")] = 0,
    tolerance: Annotated[
        float,
        Option(min=0, help="Share by which figures may differ on another kind of processor."),
    ] = 0.05,
) -> None:
    """Verify that an export is what was released, and that it can be made again.

    All its files, its lineage and its list of software must match their signatures. The exit code
    is 1 if one does not; the error message names it.
    """
    from flows.releases.verify import main

    _stop_on_signals()
    main(export, release, key, replay, seed, tolerance)


@command(data, "data check")
def check(
    source: Annotated[
        str, Argument(help="A data set of params.yaml, one source of it (web.scenes), or a path.")
    ],
    rows: Annotated[int, Option(help="Rows of each source.")] = 200,
    as_json: Annotated[bool, Option("--json", help="The result for machines.")] = False,
    write: Annotated[
        bool, Option("--write", help="Of a path: make it a preset, presets/NAME.yaml.")
    ] = False,
) -> int:
    """Check the first rows of a source as ingest and validation would.

    A path is a folder of images or shards, a list (.tsv, .csv, .parquet), a shard, or a JSON file
    of annotations. The check uses a temporary folder. Only downloaded images are kept, so that
    ingest need not download them again. The exit code is 1 if ingest or validation would fail.
    """
    cwd = Path.cwd()  # SOURCE may be a path, which is relative to this directory.
    os.chdir(project_root())
    from pipelines.check import main

    return main(source, rows, as_json, cwd, write)


@command(data, "data accept", at_root=True)
def accept_data(
    name: Annotated[str, Argument(help="The data set.")],
) -> None:
    """Accept a dataset as the reference for its later versions.

    The profile of its validation is written as a suite to the file that params.yaml names for it.
    If there is none, the file is profiles/NAME.json, and params.yaml names it from then on.
    """
    from flows.accept import accept_data

    print(accept_data(name))


@command(data, "data page", at_root=True)
def page(name: Annotated[str, Argument(help="The data set.")]) -> None:
    """Show the report's page of a dataset: samples, rejected rows, what validation refuses."""
    from pipelines.report import data_page

    print(data_page(name))
