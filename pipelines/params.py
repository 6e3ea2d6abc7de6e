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
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from albef.config import ParamsError, Range, Section, did_you_mean, read_preset, validate
from albef.curation import CurateConfig
from albef.evaluation.behaviour.suite import read_suite
from albef.ingest.config import IngestConfig, RowsConfig
from albef.layout import ENVIRONMENT, PARAMS, PROFILES, Layout, Paths, Runtime, runtime
from albef.release.gate import ReleaseConfig
from albef.search.samplers import SearchConfig
from albef.tasks import pretraining
from albef.validation.config import ValidateConfig
from albef.validation.drift import read_accepted
from pipelines.evaluate import EvaluateConfig
from pipelines.export import ExportConfig
from pipelines.report import ReportConfig

_MAY_BE_EMPTY = {"curate", "report", "search", "validate"}
"""Sections that DVC requires in the file but that need no value."""


def _is_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(
            "a name must consist of lowercase letters, digits, _ and -, because it also names a "
            "folder and a stage"
        )
    return name


Seed = Annotated[int, Field(ge=0)]
Name = Annotated[str, AfterValidator(_is_name)]


class Params(Section):
    """All values of params.yaml. DVC requires sections that stages depend on, if only as ``{}``."""

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
        """Return the dataset with the images of a filtered dataset, or the dataset itself."""
        for _ in self.curate:  # The bound ends the loop if filtered datasets form a cycle.
            dataset = self.curate[dataset].dataset if dataset in self.curate else dataset
        return dataset


def load(path: Path, *, related: bool = True) -> Params:
    """Read and check a whole params file, or a preset with its base.

    ``related`` also checks relations, such as that an imported checkpoint exists.

    Raises:
        ParamsError: there are wrong values; one error message for each, on separate lines.
    """
    where, errors = str(path), list[str]()
    values = read_preset(path)
    for key in sorted(_MAY_BE_EMPTY - values.keys()):
        errors.append(f"{where}: {key} is missing; add `{key}: {{}}`")
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
            found = _conflicts(params) if related else _check_cycles(params)
            errors += [f"{where}: {message}" for message in found]
    except ParamsError as error:
        errors.insert(0, str(error))
    if errors:
        raise ParamsError("\n".join(errors))
    return params


def _run(values: Any, *, where: str, key: str) -> Section:
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: {key} must be a mapping")
    kind = values.get("kind")
    if kind not in kinds():
        problem = " is missing" if kind is None else f": there is no kind {kind!r}"
        raise ParamsError(f"{where}: {key}.kind{problem}{did_you_mean(str(kind), kinds())}")
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
    try:
        read_suite(Path(params.evaluate.behaviour.tests))
    except ParamsError as error:
        yield f"evaluate.behaviour.tests: {error}"
    for key, value, group, choices in _references(params):
        if value not in choices:
            yield f"{key}: {value!r} is not one of {group}{did_you_mean(value, choices)}"
    near = params.ingest.near_distance
    for name, dataset in params.datasets.items():
        if dataset.duplicates == "drop_near" and near is None:
            yield (
                f"datasets.{name}.duplicates: drop_near needs ingest.near_distance, which is null; "
                "set it to a number of bits, or use drop_exact"
            )
    yield from _check_profiles(params)
    yield from _check_processes(params)
    yield from _check_exports(params)
    yield from _check_starts(params)
    yield from _check_filtered(params)
    yield from _check_cycles(params)


def _trainings(params: Params) -> dict[str, Any]:
    runs = {f"tasks.{name}": run for name, run in params.tasks.items()}
    return {"pretrain": params.pretrain, **runs}


def _references(params: Params) -> Iterator[tuple[str, str, str, Collection[str]]]:
    """Yield every reference to another entry: its key, the name, the group, and the known names."""
    datasets, runs = ("the datasets", params.datasets), ("the runs", params.tasks)
    readable = "the datasets and filtered datasets", {**params.datasets, **params.curate}
    for name in params.ingest.heldout:
        yield "ingest.heldout", name, *datasets
    for name in params.validation.accepted:
        yield "validate.accepted", name, *datasets
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
    for name, filtered in params.curate.items():
        yield f"curate.{name}.dataset", filtered.dataset, *readable
    for name in params.evaluate.reference or ():
        yield f"evaluate.reference.{name}", name, *runs


def _check_profiles(params: Params) -> Iterator[str]:
    for name, path in params.validation.accepted.items():
        try:
            if not Path(path).resolve().is_relative_to(PROFILES.resolve()):
                raise ParamsError(f"{path} must be in {PROFILES}, where DVC notices edits")
            read_accepted(path)
        except ParamsError as error:
            yield f"validate.accepted.{name}: {error}"


def _check_processes(params: Params) -> Iterator[str]:
    for key, training in _trainings(params).items():
        micros = training.global_batch_size // training.micro_batch_size
        if training.epochs and micros % params.runtime.processes:
            yield (
                f"{key}.micro_batch_size: {micros} micro-batches of {training.micro_batch_size} "
                f"are not a multiple of runtime.processes ({params.runtime.processes})"
            )


def _is_exported(kind: str) -> bool:
    return bool(importlib.import_module(f"albef.tasks.{kind}").Task.capability)


def _check_exports(params: Params) -> Iterator[str]:
    for name in params.export.runs:
        kind = getattr(params.tasks.get(name), "kind", None)
        if kind is not None and not _is_exported(kind):
            yield (
                f"export.runs.{name}: runs of kind {kind} cannot be exported; these kinds can: "
                f"{', '.join(filter(_is_exported, kinds()))}"
            )


def _check_starts(params: Params) -> Iterator[str]:
    """Yield errors of ``init``: it must name pre-training, a run, a kept epoch, or an import."""
    if "pretrained" in params.tasks:
        yield "tasks.pretrained: this name is reserved for pre-training; choose another"
    owners = {"pretrained": params.pretrain, **params.tasks}
    for name, run in params.tasks.items():
        owner, _, epoch = run.init.partition("/epochs/")
        if owner in owners:
            if epoch and epoch not in map(str, owners[owner].keep_epochs):
                yield f"tasks.{name}.init: {owner} does not keep epoch {epoch} (keep_epochs)"
        elif not _is_imported(Layout(params.paths).model(run.init)):
            yield (
                f"tasks.{name}.init: {run.init!r} is not pretrained, a run or a checkpoint in "
                f"{params.paths.models}; `albef import` adds an original checkpoint"
                + did_you_mean(run.init, [other for other in owners if other != name])
            )


def _check_filtered(params: Params) -> Iterator[str]:
    for name, filtered in params.curate.items():
        if name in params.datasets:
            yield f"curate.{name}: a dataset has this name; choose another"
        by = Path(filtered.by)
        if not _owner(params, filtered.by) and not _is_imported(by):
            yield (
                f"curate.{name}.by: there is no checkpoint {by}; set the folder of an earlier or "
                "imported one (`albef import`)"
            )


def _owner(params: Params, by: str) -> str:
    """Return which training makes the checkpoint at a path; "" if none does."""
    path, models = Path(by).resolve(), Path(params.paths.models).resolve()
    name = path.relative_to(models).parts[0] if models in path.parents else ""
    return name if name in ("pretrained", *params.tasks) else ""


def _check_cycles(params: Params) -> Iterator[str]:
    deps = {
        f"curate.{name}": (f"curate.{filtered.dataset}", _owner(params, filtered.by))
        for name, filtered in params.curate.items()
    }
    for model, run in {"pretrained": params.pretrain, **params.tasks}.items():
        deps[model] = f"curate.{run.dataset}", getattr(run, "init", "").partition("/epochs/")[0]
    try:
        TopologicalSorter(deps).prepare()
    except CycleError as error:
        name, cycle = error.args[1][0], " <- ".join(reversed(error.args[1]))
        if "curate." in cycle:
            yield (
                f"curate: circular dependency {cycle}; use a checkpoint of an earlier pre-training "
                "in another paths.root"
            )
        else:
            yield f"tasks.{name}.init: circular dependency {cycle}"


def _is_imported(folder: Path) -> bool:
    """Return whether a checkpoint exists locally or can be pulled by DVC."""
    return folder.is_dir() or folder.with_name(folder.name + ".dvc").exists()


def explain(path: Path, prefix: str = "") -> str:
    """Return the values of a params file or preset, or those below a dotted key, with descriptions.

    Raises:
        ParamsError: the file is invalid, or has no such key.
    """
    values = read_preset(path)
    shown = load(path).model_copy(update={"runtime": runtime(values.get("runtime"))})
    rows = dict(_leaves(shown, values, str(path)))
    texts = [text for key, text in rows.items() if not prefix or f"{key}.".startswith(f"{prefix}.")]
    if not texts:
        raise ParamsError(f"{path} has no {prefix}{did_you_mean(prefix, rows)}")
    return "\n".join(texts)


def _leaves(
    value: Any, file_value: Any, origin: str, key: str = "", description: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the key and the printed text of each value below a section.

    ``file_value`` is the file's value of the section; None if the section is a default.
    """
    if not _has_parts(value):
        plain = value.model_dump() if isinstance(value, Range) else value
        text = f"{key}: {json.dumps(plain, ensure_ascii=False)}  # {origin}"
        yield key, f"{text}\n    {description}" if description else text
        return
    for name, part in dict(value).items():
        part_origin, part_description = origin, description
        if isinstance(value, Section):
            owner = next(c for c in type(value).__mro__ if name in inspect.get_annotations(c))
            field = type(value).model_fields[name]
            part_description = " ".join((field.description or "").split())
            name = field.alias or name
            variable = f"{ENVIRONMENT}{name.upper()}"
            if isinstance(value, Runtime) and variable in os.environ:
                part_origin = variable
            elif file_value is not None and name not in file_value:
                part_origin = f"default of {owner.__name__}"
        part_value = (file_value or {}).get(name)
        dotted = f"{key}.{name}" if key else name
        yield from _leaves(part, part_value, part_origin, dotted, part_description)


def _has_parts(value: Any) -> bool:
    """Return whether a value is printed as several: a section, or a mapping of sections."""
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
