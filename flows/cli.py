"""Commands that run the pipeline of a project, in the project's root."""

import os
import signal
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, BadParameter, Option, Typer

from albef.commands.command import command, from_root, project_root

app = Typer(rich_markup_mode=None)
data = Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Check datasets and accept them as references.",
)
app.add_typer(data, name="data")
Names = list[str] | None
File = Path | None
Preset = Annotated[str | None, Option(help="Name of a preset: presets/PRESET.yaml.")]
Strict = Annotated[bool, Option("--strict", help="Fail if a printed result is stale.")]
Bump = Literal["patch", "minor", "major"]
RESUMES = "interrupted; run the same command again to resume"


def _prepare_output() -> None:
    """Show progress, and raise KeyboardInterrupt on the signals that end a command."""
    from flows.results import show_progress

    show_progress()
    _stop_on_signals()


def _stop_on_signals() -> None:
    # A shell ignores SIGINT for a command that it starts with `&`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@command(app, "run", at_root=True, interrupted=RESUMES)
def run(
    preset: Preset = None,
    overrides: Annotated[
        Names, Option("--set", metavar="KEY=VALUE", help="Change a value.")
    ] = None,
    only: Annotated[Names, Option(metavar="STAGE", help="Run only NAME or NAME@KEY.")] = None,
    force: Annotated[Names, Option(metavar="STAGE", help="Run even if nothing changed.")] = None,
    name: Annotated[str | None, Option(help="Record the run as a DVC experiment.")] = None,
    seeds: Annotated[int | None, Option(min=2, help="Seeds to run, as NAME-seed1, ...")] = None,
    dry: Annotated[bool, Option("--dry", help="Print what would run and why, and stop.")] = False,
    strict: Strict = False,
) -> int:
    """Run the stages whose inputs have changed.

    You can repeat --set, --only and --force. The exit code is 1 if a stage failed, 2 for wrong
    values and 130 after an interrupt.

    Example: albef run --set tasks.retrieval.lr=2e-4 --name slower
    """
    if seeds and (only or force or dry):
        raise BadParameter("--seeds cannot be combined with --only, --force or --dry")
    from flows.experiments.seeds import run_seeds
    from flows.results import check_fresh
    from flows.run import run

    _prepare_output()
    if seeds:
        code = run_seeds(preset, overrides or (), name, seeds)
    else:
        code = run(preset, overrides or (), only or (), force or (), name, dry=dry)
    if strict and not dry and code == 0:
        check_fresh()
    return code


@command(app, "status", at_root=True)
def status(strict: Strict = False) -> None:
    """Show which stages are fresh, stale (and why) or running.

    Example: albef status --strict
    """
    from flows.results import check_fresh
    from flows.status import report

    print(report())
    if strict:
        check_fresh()


@command(app, "params", at_root=True)
def params(
    section: Annotated[str, Argument(help="Key of a section or value; default: all.")] = "",
    preset: Preset = None,
) -> None:
    """Print all values, with their descriptions and origins.

    Example: albef params tasks.retrieval
    """
    from flows.values import file_of
    from pipelines.params import explain

    print(explain(file_of(preset), section))


@command(app, "plan", at_root=True)
def plan(
    preset: Annotated[str | None, Argument(help="A preset; default: params.yaml.")] = None,
    gpu: Annotated[float, Option(min=1, help="Memory of each GPU, in GiB.")] = 24.0,
    gpus: Annotated[int, Option(min=1, help="Number of GPUs.")] = 1,
    tflops: Annotated[float, Option(min=0.1, help="Peak of a GPU, in TFLOP/s.")] = 125.0,
    utilisation: Annotated[float, Option(min=1, max=100, help="Percent of it in training.")] = 40.0,
    rows: Annotated[Names, Option(metavar="NAME=COUNT", help="Rows of a dataset.")] = None,
) -> int:
    """Estimate memory and time of trainings on GPUs, without a GPU.

    It also finds the largest micro_batch_size. Texts count as 30 words. Times are of training
    steps on all GPUs, without evaluation. The default peak is that of an NVIDIA A10 in bfloat16.
    The exit code is 1 if a training does not fit.

    Example: albef plan single-gpu --gpu 24 --rows web=1300000
    """
    from flows.values import file_of
    from pipelines.plan import Gpus, main

    return main(file_of(preset), Gpus(gpus, gpu, tflops * utilisation * 1e10), rows or ())


@command(app, "compare", at_root=True)
def compare(
    revisions: Annotated[
        list[str], Argument(metavar="REVISION", help="Revisions; the first is the baseline.")
    ],
    out: Annotated[File, Option(parser=from_root, help="HTML file to write.")] = None,
    examples: Annotated[int, Option(help="Changed answers to show in each direction.")] = 6,
    stepwise: Annotated[bool, Option("--stepwise", help="Compare neighboring groups.")] = False,
) -> int:
    """Compare the recorded results of experiments or git revisions.

    A revision is an experiment, a branch, a tag, a commit or `workspace`. Each is compared with the
    first, or with --stepwise, each group of seeds with the previous group. The page shows values,
    data, metrics, curves and changed answers; by default, it is in .albef/compare/. No stage runs.

    Example: albef compare HEAD workspace
    """
    from flows.experiments.compare import compare

    return compare(revisions, out, examples, stepwise=stepwise)


@command(app, "ablate", at_root=True, interrupted=RESUMES)
def ablate(
    overrides: Annotated[
        Names, Option("--set", metavar="KEY=VALUE", help="Change a value in all steps.")
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Seeds of each step.")] = 3,
    preset: Annotated[str, Option(help="Preset of the last step.")] = "ablation",
    steps: Annotated[str, Option(help="File of the steps: ablations/STEPS.yaml.")] = "paper",
    name: Annotated[str | None, Option(help="Prefix of the names, if not the preset.")] = None,
    jobs: Annotated[int | None, Option(min=1, help="Trainings at a time.")] = None,
) -> None:
    """Train and compare the steps of an ablation, with several seeds.

    Each training is recorded as an experiment, and recorded trainings are not repeated. As many run
    at a time as the CPU cores allow, unless --jobs is given. The comparison equals `albef compare
    --stepwise`. You can repeat --set.

    Example: albef ablate --seeds 1
    """
    from flows.experiments.ablate import ablate

    _prepare_output()
    ablate(overrides or (), seeds, preset, steps, name, jobs)


@command(app, "accept", at_root=True)
def accept(
    files: Annotated[
        list[Path], Argument(parser=from_root, metavar="FILE", help="Edited files or folders.")
    ],
) -> int:
    """Accept edits of code that you know change no artifact.

    Stages that depend on the files stay fresh if nothing else differs. The exit code is 1 if a
    stage refused, 2 if there was nothing to accept.

    Example: albef accept albef/ingest/cleaning.py
    """
    from flows.accept import accept_files

    return accept_files(files)


@command(app, "release", at_root=True, interrupted="interrupted; nothing was released")
def release(
    run: Annotated[str, Argument(help="An entry of export.runs.")],
    approve: Annotated[bool, Option("--approve", help="Release what was compared.")] = False,
    stage: Annotated[str, Option(help="Stage of the registry for the version.")] = "prod",
    bump: Annotated[Bump, Option(help="Part of the version to increase.")] = "minor",
    back: Annotated[bool, Option("--back", help="Return to the previous version.")] = False,
    dry: Annotated[bool, Option("--dry", help="Print the model card; release nothing.")] = False,
    accept_limits: Annotated[
        bool, Option("--accept-limits", help="Accept limits that changed.")
    ] = False,
    key: Annotated[
        File, Option(envvar="ALBEF_SIGNING_KEY", parser=from_root, help="Private key, a PEM file.")
    ] = None,
) -> None:
    """Release an export that passes the gate, or go back one version.

    The export is compared with the released one; the limits are in `release` of params.yaml.
    Without --approve nothing changes, and the exit code is 0 if the export would be released, 1 if
    not.

    Example: albef release retrieval --approve
    """
    from flows.releases.release import main

    _stop_on_signals()
    options = {"back": back, "dry": dry, "accept_limits": accept_limits}
    main(run, stage, bump, approve=approve and not dry, key=key, **options)


@command(app, "fetch", at_root=True, interrupted=RESUMES)
def fetch(
    released: Annotated[
        list[str], Argument(metavar="RUN#STAGE", help="Runs and stages, such as retrieval#prod.")
    ],
    key: Annotated[File, Option(parser=from_root, help="Public key that must match.")] = None,
) -> None:
    """Download released exports, such as retrieval#prod.

    RUN#STAGE is the version that holds this stage of the registry. The command prints a link to it.
    The link changes to a new version when that version is completely downloaded. With --key,
    versions that the key's owner did not sign are refused.

    Example: albef fetch retrieval#prod --key albef.pub
    """
    from flows.releases.fetch import main

    _stop_on_signals()
    for link in main(released, key):
        print(link, flush=True)


@command(app, "verify", at_root=True)
def verify(
    export: Annotated[Path, Argument(parser=from_root, help="Folder of the downloaded export.")],
    release: Annotated[Path, Argument(parser=from_root, help="Its release: releases/RUN/VERSION.")],
    key: Annotated[Path, Option(parser=from_root, help="Public key of the signer, a PEM file.")],
) -> None:
    """Verify that an export is the released one.

    All its files and its lineage must match their signatures. The exit code is 1 if one does not;
    the error message names it.

    Example: albef verify EXPORT releases/retrieval/v0.1.0 --key albef.pub
    """
    from albef.release.attestation import verify_release

    lineage = verify_release(export, release, key)
    definition, files = lineage["predicate"]["buildDefinition"], lineage["subject"]
    of, inputs = definition["externalParameters"], definition["resolvedDependencies"]
    print(
        f"{of['run']} {of['version']}, sha256:{files[0]['digest']['sha256']}, is signed with the "
        f"private key of {key}: {len(files)} files, {len(inputs)} inputs"
    )


@command(data, "data check")
def check(
    source: Annotated[
        str, Argument(help="A dataset of params.yaml, one of its sources (web.scenes), or a path.")
    ],
    rows: Annotated[
        int | None,
        Option(help="Rows to read of each source: 200, or 5,000 local ones with --write."),
    ] = None,
    name: Annotated[
        str | None,
        Option(help="For a path: name of the dataset and preset; by default the path's."),
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    write: Annotated[
        bool, Option("--write", help="For a path: write the preset presets/NAME.yaml.")
    ] = False,
) -> int:
    """Check the first rows of a source as ingest and validation would.

    A path is a folder of images or shards, a list (.tsv, .csv, .jsonl, .parquet), a shard, or a
    JSON file of captions. Nothing is kept except downloaded images. The exit code is 1 if ingest
    or validation would fail.

    Example: albef data check photos --write
    """
    cwd = Path.cwd()  # SOURCE may be a path, which is relative to this directory.
    os.chdir(project_root())
    from pipelines.check import main

    return main(source, rows, name, write, as_json, cwd)


@command(data, "data accept", at_root=True)
def accept_data(name: Annotated[str, Argument(help="The dataset.")]) -> None:
    """Accept a dataset as the reference for its later versions.

    The profile from its validation becomes a suite in profiles/NAME.json, or in the file that
    validate.accepted of params.yaml names.

    Example: albef data accept mine
    """
    from flows.accept import accept_data

    print(accept_data(name))


@command(data, "data page", at_root=True)
def page(name: Annotated[str, Argument(help="The dataset.")]) -> None:
    """Write a page about a dataset and print its path.

    It shows samples, rejected rows and the result of validation.

    Example: albef data page web
    """
    from pipelines.report import data_page

    print(data_page(name))
