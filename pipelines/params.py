"""Check of the whole params.yaml before the first stage, and its printed form.

The class of each section is defined next to the code that uses it. Relations between sections are
checked here.
"""

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from albef.config import ParamsError, Range, Section, did_you_mean, read_preset, validate
from albef.curation import CurateConfig
from albef.evaluation.behaviour.suite import load as load_suite
from albef.ingest.config import IngestConfig, RowsConfig
from albef.layout import EARLIER, ENVIRONMENT, PARAMS, Layout, Paths, Runtime, runtime
from albef.release.gate import ReleaseConfig
from albef.search.samplers import SearchConfig
from albef.tasks import pretraining
from albef.validation.config import ValidateConfig
from albef.validation.drift import read_accepted, read_evaluated
from pipelines.evaluate import EvaluateConfig
from pipelines.export import ExportConfig
from pipelines.report import ReportConfig

PROFILES = Path("profiles")
"""Folder of accepted profiles, which validation depends on."""
_MAY_BE_EMPTY = {"curate", "report", "search", "validate"}
"""Sections that DVC requires in the file but that need no value."""


def _is_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(
            "a name is of small letters, digits, _ and -, since it also names a folder and a stage"
        )
    return name


Seed = Annotated[int, Field(ge=0)]
Name = Annotated[str, AfterValidator(_is_name)]


class Params(Section):
    """All values of params.yaml.

    You may leave out a section that no stage depends on. DVC requires the others in the file, if
    necessary as ``{}``.
    """

    seed: Seed
    """Seed of all trainings."""
    data_seed: Seed
    """Seed for the random choices of data sources."""
    paths: Paths
    runtime: Runtime = Field(default_factory=Runtime)
    datasets: Annotated[dict[Name, RowsConfig], Field(min_length=1)]
    curate: dict[Name, CurateConfig]
    ingest: IngestConfig
    validation: ValidateConfig = Field(alias="validate")
    pretrain: pretraining.Config
    search: SearchConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    release: ReleaseConfig = Field(default_factory=ReleaseConfig)
    report: ReportConfig
    tasks: Annotated[dict[Name, Any], Field(min_length=1)]

    def base_of(self, dataset: str) -> str:
        """Return the dataset with the images of a filtered dataset, or the dataset itself.

        A filtered dataset may be filtered from another one.
        """
        for _ in self.curate:  # The bound ends the loop if filtered datasets form a cycle.
            dataset = self.curate[dataset].dataset if dataset in self.curate else dataset
        return dataset


def load(path: Path) -> Params:
    """Read and check a whole params file, or a preset with its base.

    Raises:
        ParamsError: there are wrong values; one error message for each, on separate lines.
    """
    where, errors = str(path), list[str]()
    values = read_preset(path)
    for key in sorted(_MAY_BE_EMPTY - values.keys()):
        errors.append(f"{where}: {key} is missing; write `{key}: {{}}` for none or its defaults")
        values[key] = {}
    tasks: dict[str, Section] = {}
    runs = values.get("tasks")
    for name, run in runs.items() if isinstance(runs, Mapping) else ():
        try:
            tasks[name] = _run(run, where=where, key=f"tasks.{name}")
        except ParamsError as error:
            errors.append(str(error))
    try:
        params = validate(Params, values, where=where).model_copy(update={"tasks": tasks})
        if not errors:
            errors += [f"{where}: {sentence}" for sentence in _conflicts(params)]
    except ParamsError as error:
        errors.insert(0, str(error))
    if errors:
        raise ParamsError("\n".join(errors))
    return params


def _run(values: Any, *, where: str, key: str) -> Section:
    """Return an entry of ``tasks`` as the section of its kind."""
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: {key} must be a mapping")
    kind = values.get("kind")
    if kind is None:
        raise ParamsError(f"{where}: {key}.kind is missing; there are {', '.join(kinds())}")
    if kind not in kinds():
        raise ParamsError(
            f"{where}: {key}.kind: there is no kind {kind!r}{did_you_mean(str(kind), kinds())}"
        )
    config: type[Section] = importlib.import_module(f"albef.tasks.{kind}").Config
    return validate(config, values, where=where, key=key)


def kinds() -> list[str]:
    """Return the kinds of run: files in albef/tasks with a Config and a Task, not pre-training."""
    folder = Path(importlib.import_module("albef.tasks").__path__[0])
    # Reading the text avoids importing torch.
    texts = {path.stem: path.read_text() for path in folder.glob("*.py")}
    return sorted(
        name
        for name, text in texts.items()
        if name != "pretraining" and all(f"\nclass {part}(" in text for part in ("Config", "Task"))
    )


def _conflicts(params: Params) -> Iterator[str]:
    """Yield an error message for each contradiction between sections."""
    suite, rules = params.evaluate.behaviour.tests, {}
    try:
        rules = load_suite(Path(suite)).tests
    except ParamsError as error:
        yield f"evaluate.behaviour.tests: {error}"
    rule_references = [
        (f"evaluate.behaviour.tests: {suite}: tests.{name}.dataset", rule.dataset)
        for name, rule in rules.items()
        if rule.dataset is not None
    ]
    for key, value, group, choices in _references(params, rule_references):
        if value not in choices:
            yield f"{key}: {value!r} is not one of {group}{did_you_mean(value, choices)}"
    near = params.ingest.near_distance
    for name, dataset in params.datasets.items():
        if dataset.duplicates == "drop_near" and near is None:
            yield (
                f"datasets.{name}.duplicates: drop_near asks for ingest.near_distance, which is "
                "null: give it bits, or write drop_exact"
            )
    yield from _check_profiles(params)
    yield from _check_processes(params)
    yield from _check_exports(params)
    yield from _check_starts(params)
    yield from _check_filtered(params)


def _trainings(params: Params) -> dict[str, Any]:
    """Return the sections of all trainings by their key in the file."""
    return {
        "pretrain": params.pretrain,
        **{f"tasks.{name}": run for name, run in params.tasks.items()},
    }


def _references(
    params: Params, rule_references: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str, str, Collection[str]]]:
    """Yield every reference to another entry: its key, the name, the group, and the known names.

    ``rule_references`` are datasets of behaviour tests.
    """
    datasets, runs = ("the datasets", params.datasets), ("the runs", params.tasks)
    readable = "the datasets and their views", {**params.datasets, **params.curate}
    for name in params.ingest.heldout:
        yield "ingest.heldout", name, *datasets
    for key in ("accepted", "evaluated_on"):
        for name in getattr(params.validation, key):
            yield f"validate.{key}", name, *datasets
    for key, training in _trainings(params).items():
        yield f"{key}.dataset", training.dataset, *readable
        dataset = params.base_of(training.dataset)
        if dataset in params.datasets:
            sources = params.datasets[dataset].sources
            for name in training.source_weights or ():
                yield f"{key}.source_weights", name, f"the sources of {dataset}", sources
    for name, export in params.export.runs.items():
        yield f"export.runs.{name}", name, *runs
        yield f"export.runs.{name}.dataset", export.dataset, *readable
    for key in ("max_damaged_records", "max_damaged_shards"):
        for name in getattr(params.runtime, key):
            yield f"runtime.{key}", name, *readable
    for name, view in params.curate.items():
        yield f"curate.{name}.dataset", view.dataset, *readable
    for name in params.evaluate.reference or ():
        yield f"evaluate.reference.{name}", name, *runs
    for key, name in rule_references:
        yield key, name, *datasets


def _check_profiles(params: Params) -> Iterator[str]:
    section = params.validation
    for key, read in (("accepted", read_accepted), ("evaluated_on", read_evaluated)):
        for name, path in getattr(section, key).items():
            if not Path(path).resolve().is_relative_to(PROFILES.resolve()):
                yield f"validate.{key}.{name}: {path} is not in {PROFILES}, whose edits DVC sees"
                continue
            try:
                read(path)
            except ParamsError as error:
                yield f"validate.{key}.{name}: {error}"


def _check_processes(params: Params) -> Iterator[str]:
    processes = params.runtime.processes
    for key, training in _trainings(params).items():
        micros = training.global_batch_size // training.micro_batch_size
        if training.epochs and micros % processes:
            yield (
                f"{key}.micro_batch_size: {micros} micro-batches of {training.micro_batch_size} "
                f"cannot be shared equally by {processes} processes (runtime.processes)"
            )


def _is_exported(kind: str) -> bool:
    """Return whether models of a kind can be exported."""
    return bool(importlib.import_module(f"albef.tasks.{kind}").Task.capability)


def _check_exports(params: Params) -> Iterator[str]:
    for name in params.export.runs:
        kind = getattr(params.tasks.get(name), "kind", None)
        if kind is not None and not _is_exported(kind):
            yield (
                f"export.runs.{name}: {name} is of kind {kind}, which has no use of its own; those "
                f"that are exported are {', '.join(filter(_is_exported, kinds()))}"
            )


def _check_starts(params: Params) -> Iterator[str]:
    """Yield errors of ``init``: it must name pre-training, a run, a kept epoch, or an import."""
    if "pretrained" in params.tasks:
        yield "tasks.pretrained: that name belongs to the pre-trained model; choose another"
    owners = {"pretrained": params.pretrain, **params.tasks}
    for name, run in params.tasks.items():
        init = run.init
        owner, _, epoch = init.partition("/epochs/")
        if epoch and owner in owners:
            if epoch not in map(str, owners[owner].keep_epochs):
                yield f"tasks.{name}.init: {owner} does not keep epoch {epoch} (keep_epochs)"
            init = owner
        if init not in owners and not _is_imported(Layout(params.paths).model(init)):
            yield (
                f"tasks.{name}.init: {init!r} is neither pretrained, a run, nor a checkpoint under "
                f"{params.paths.models} (`albef import` makes one of an original)"
                + did_you_mean(init, [other for other in owners if other != name])
            )


def _check_filtered(params: Params) -> Iterator[str]:
    """Yield errors of filtered datasets, and of runs that start from themselves.

    A filtered dataset needs a unique name. Its checkpoint must exist and must not have learned from
    it.
    """
    owners = {"pretrained": params.pretrain, **params.tasks}
    models = Path(params.paths.models).resolve()

    def owner(by: str) -> str:
        """Return which of ``owners`` makes the checkpoint at a path; "" if none does."""
        path = Path(by).resolve()
        name = path.relative_to(models).parts[0] if models in path.parents else ""
        return name if name in owners else ""

    for name, view in params.curate.items():
        if name in params.datasets:
            yield f"curate.{name}: that name belongs to a data set; choose another"
        by = Path(view.by)
        if not owner(view.by) and by != EARLIER and not _is_imported(by):
            yield (
                f"curate.{name}.by: there is no checkpoint {view.by}: give the folder of one that "
                "was trained before or imported (`albef import`)"
            )
    deps = {f"view {name}": (f"view {v.dataset}", owner(v.by)) for name, v in params.curate.items()}
    for model, run in owners.items():
        deps[model] = f"view {run.dataset}", getattr(run, "init", "").partition("/epochs/")[0]
    try:
        TopologicalSorter(deps).prepare()
    except CycleError as error:
        name, circle = error.args[1][0], " <- ".join(reversed(error.args[1]))
        if "view " in circle:
            yield (
                f"curate: nothing can be made of itself: {circle}; take a checkpoint of an earlier "
                "pre-training, of another paths.root"
            )
        else:
            yield f"tasks.{name}.init: no run can start from itself: {circle}"


def _is_imported(folder: Path) -> bool:
    """Return whether a checkpoint exists, or would after ``dvc pull``."""
    return folder.is_dir() or folder.with_name(folder.name + ".dvc").exists()


def explain(path: Path, prefix: str = "") -> str:
    """Return every current value of a params file or preset, or those below a dotted key.

    Each value has its origin, and its description below.

    Raises:
        ParamsError: the file is invalid, or has no such key.
    """
    values = read_preset(path)
    shown = load(path).model_copy(update={"runtime": runtime(values.get("runtime"))})
    rows = list(_leaves(shown, values, str(path)))
    lines = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}  # {source}"
        + f"\n    {words}" * bool(words)
        for key, value, source, words in rows
        if not prefix or f"{key}.".startswith(f"{prefix}.")
    ]
    if not lines:
        raise ParamsError(f"{path} has no {prefix}{did_you_mean(prefix, [row[0] for row in rows])}")
    return "\n".join(lines)


def _leaves(
    value: Any, file_value: Any, source: str, key: str = "", words: str = ""
) -> Iterator[tuple[str, Any, str, str]]:
    """Yield key, value, origin and description of each value below a section.

    ``file_value`` is the file's value of the section; None if the section is a default.
    """
    parts = dict(value) if _has_parts(value) else {}
    for name, part in parts.items():
        origin, sentence = source, words
        if isinstance(value, Section):
            owner = next(c for c in type(value).__mro__ if name in inspect.get_annotations(c))
            field = type(value).model_fields[name]
            sentence = " ".join((field.description or "").split())
            name = field.alias or name
        is_in_file = file_value is not None and name in file_value
        if isinstance(value, Section):
            variable = f"{ENVIRONMENT}{name.upper()}"
            if isinstance(value, Runtime) and variable in os.environ:
                origin = variable
            elif file_value is not None and not is_in_file:
                origin = f"default of {owner.__name__}"
        dotted = f"{key}.{name}" if key else name
        yield from _leaves(part, file_value[name] if is_in_file else None, origin, dotted, sentence)
    if not parts:
        yield key, value.model_dump() if isinstance(value, Range) else value, source, words


def _has_parts(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_parts, value.values()))
    return isinstance(value, Section) and not isinstance(value, Range)


def main() -> None:
    """Check files; print errors to standard error and exit with code 2."""
    try:
        for file in sys.argv[1:] or [str(PARAMS)]:
            load(Path(file))
    except ParamsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
