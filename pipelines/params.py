"""The whole of params.yaml, checked before the first stage: ``python -m pipelines.params [FILE]``.

Each section is read by the class that stands beside its owner; what one section says of another
is checked here.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from albef.config import ParamsError, Section, nearest, read_yaml, validate
from albef.evaluation.behaviour.suite import load as load_suite
from albef.layout import PARAMS, Layout, Paths, Runtime
from albef.validation.drift import read_accepted, read_evaluated

SECTIONS = {
    "ingest": "albef.ingest.config:IngestConfig",
    "validate": "albef.validation.config:ValidateConfig",
    "pretrain": "albef.tasks.pretraining:Config",
    "search": "albef.search.samplers:SearchConfig",
    "evaluate": "pipelines.evaluate:EvaluateConfig",
    "export": "pipelines.export:ExportConfig",
    "release": "albef.release.gate:ReleaseConfig",
    "report": "pipelines.report:ReportConfig",
}
"""Owner's class of each section that is one class."""
DATASET = "albef.loading.dataset:DatasetConfig"
SEEDS = ("seed", "data_seed")
KNOWN = (*SEEDS, "paths", "runtime", "datasets", *SECTIONS, "tasks")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Params:
    """Every value of a run.

    Attributes:
        seed: the seed of everything random but the data.
        data_seed: the seed of what sources draw.
        paths: where products go.
        runtime: what changes speed only.
        datasets: data sets by name.
        sections: the sections that belong to one stage, by name.
        tasks: runs by name, each read by its kind.
    """

    seed: int
    data_seed: int
    paths: Paths
    runtime: Runtime
    datasets: dict[str, Section]
    sections: dict[str, Section]
    tasks: dict[str, Section]


def load(path: Path, *, name: str | None = None) -> Params:
    """Read and check a whole params file.

    Args:
        path: the file.
        name: what errors call it; its path if not given.

    Raises:
        ParamsError: a sentence for every wrong value, one a line.
    """
    where = name or str(path)
    values = read_yaml(path)
    errors: list[str] = []

    def read(loader: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return loader(*args, where=where, **kwargs)
        except ParamsError as error:
            errors.append(str(error))
            return None

    for key in values:
        if key not in KNOWN:
            near = nearest(str(key), list(KNOWN))
            errors.append(
                f"{where}: {key} is not a known section"
                + (f"; did you mean {near}?" if near else f"; there are {', '.join(KNOWN)}")
            )
    missing = [key for key in KNOWN if key not in values]
    errors += [f"{where}: {key} is missing" for key in missing]
    for name in (name for name in SEEDS if name in values):
        if type(values[name]) is not int or values[name] < 0:
            errors.append(f"{where}: {name} must be a whole number from 0, got {values[name]!r}")
    present = [key for key in SECTIONS if key in values]
    sections = {key: read(validate, _class(SECTIONS[key]), values[key], key=key) for key in present}
    paths = read(validate, Paths, values.get("paths"), key="paths") if "paths" in values else None
    runtime = (
        read(validate, Runtime, values["runtime"], key="runtime") if "runtime" in values else None
    )
    datasets = {
        item: read(validate, _class(DATASET), value, key=f"datasets.{item}")
        for item, value in read(_named, values.get("datasets", {}), key="datasets") or ()
    }
    tasks = {
        item: read(_run, value, key=f"tasks.{item}")
        for item, value in read(_named, values.get("tasks", {}), key="tasks") or ()
    }
    if not errors and paths is not None and runtime is not None:
        params = Params(
            values["seed"], values["data_seed"], paths, runtime, datasets, sections, tasks
        )
        errors += [f"{where}: {sentence}" for sentence in _contradictions(params)]
    if errors:
        raise ParamsError("\n".join(errors))
    return params


def _class(spec: str) -> type[Section]:
    module, _, name = spec.partition(":")
    return cast(type[Section], getattr(importlib.import_module(module), name))


def _named(values: Any, *, where: str, key: str) -> list[tuple[str, Any]]:
    """The entries of a mapping whose keys name folders and stages."""
    if not isinstance(values, Mapping) or not values:
        raise ParamsError(f"{where}: {key} must hold at least one entry, NAME: {{...}}")
    for name in values:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ParamsError(
                f"{where}: {key}.{name}: a name is of small letters, digits, _ and -, "
                "since it also names a folder and a stage"
            )
    return list(values.items())


def _run(values: Any, *, where: str, key: str) -> Section:
    """An entry of ``tasks``, read by its kind."""
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: {key} must be a mapping")
    kind = values.get("kind")
    if kind is None:
        raise ParamsError(f"{where}: {key}.kind is missing; there are {', '.join(kinds())}")
    if kind not in kinds():
        near = nearest(str(kind), kinds())
        raise ParamsError(
            f"{where}: {key}.kind: there is no kind {kind!r}"
            + (f"; did you mean {near}?" if near else f"; there are {', '.join(kinds())}")
        )
    return validate(_class(f"albef.tasks.{kind}:Config"), values, where=where, key=key)


def kinds() -> list[str]:
    """The kinds of run: files in albef/tasks that hold a Config and a Task, pre-training apart."""
    folder = Path(importlib.import_module("albef.tasks").__path__[0])
    texts = {path.stem: path.read_text() for path in folder.glob("*.py")}  # imports no torch
    return sorted(
        name
        for name, text in texts.items()
        if name != "pretraining" and all(f"\nclass {part}(" in text for part in ("Config", "Task"))
    )


def _is_exported(kind: str) -> bool:
    """Whether a model of a kind has a use of its own."""
    return bool(importlib.import_module(f"albef.tasks.{kind}").Task.surface)


def _contradictions(params: Params) -> Iterator[str]:
    """What one section says of another that is not so."""

    def unknown(key: str, value: str, what: str, known: list[str]) -> str:
        near = nearest(value, known)
        return f"{key}: {value!r} is {what}" + (
            f"; did you mean {near}?" if near else f"; there are {', '.join(known)}"
        )

    datasets = list(params.datasets)
    for name, own in params.datasets.items():
        for key, read in (("accepted", read_accepted), ("evaluated_on", read_evaluated)):
            try:
                read(Path(getattr(own, key)))
            except ParamsError as error:
                yield f"datasets.{name}.{key}: {error}"
    for name in cast(Any, params.sections["ingest"]).heldout:
        if name not in params.datasets:
            yield unknown("ingest.heldout", name, "not one of the datasets", datasets)
    owners = {"pretrain": params.sections["pretrain"]}
    owners |= {f"tasks.{name}": run for name, run in params.tasks.items()}
    processes = params.runtime.processes
    if processes > 1 and params.runtime.search_workers > 1:
        yield (
            f"runtime.search_workers: {params.runtime.search_workers} workers cannot "
            f"share a device with {processes} processes (runtime.processes): make one of them 1"
        )
    for key, section in owners.items():
        values = cast(Any, section)
        if values.dataset not in params.datasets:
            yield unknown(f"{key}.dataset", values.dataset, "not one of the datasets", datasets)
        else:
            sources = list(cast(Any, params.datasets[values.dataset]).sources)
            for name in values.source_weights or ():
                if name not in sources:
                    yield unknown(f"{key}.source_weights", name, "no source of its data", sources)
        micros = values.global_batch_size // values.micro_batch_size
        if values.epochs and micros % processes:
            yield (
                f"{key}.micro_batch_size: {micros} micro-batches of {values.micro_batch_size} "
                f"cannot be shared equally by {processes} processes (runtime.processes)"
            )
    if "pretrained" in params.tasks:
        yield "tasks.pretrained: that name belongs to the pre-trained model; choose another"
    for name, own in cast(Any, params.sections["export"]).runs.items():
        key = f"export.runs.{name}"
        if name not in params.tasks:
            yield unknown(key, name, "not one of the tasks", list(params.tasks))
        elif not _is_exported(kind := cast(Any, params.tasks[name]).kind):
            yield (
                f"{key}: {name} is of kind {kind}, which has no use of its own; those that are "
                f"exported are {', '.join(filter(_is_exported, kinds()))}"
            )
        if own.dataset not in params.datasets:
            yield unknown(f"{key}.dataset", own.dataset, "not one of the datasets", datasets)
    starts = {name: cast(Any, run).init for name, run in params.tasks.items()}
    for name, init in starts.items():
        whose, _, epoch = init.partition("/epochs/")
        owner = owners.get("pretrain" if whose == "pretrained" else f"tasks.{whose}")
        if epoch and owner:
            if epoch not in map(str, cast(Any, owner).keep_epochs):
                yield f"tasks.{name}.init: {whose} does not keep epoch {epoch} (keep_epochs)"
            starts[name] = init = whose
        folder = Layout(params.paths).model(init)
        if init != "pretrained" and init not in starts and not _imported(folder):
            yield unknown(
                f"tasks.{name}.init",
                init,
                f"neither pretrained, a run, nor a checkpoint under {params.paths.models} "
                "(`albef import` makes one of an original)",
                ["pretrained", *(run for run in starts if run != name)],
            )
    behaviour = cast(Any, params.sections["evaluate"]).behaviour
    try:
        suite = load_suite(Path(behaviour.tests))
        for test, rule in suite.tests.items():
            if rule.dataset is not None and rule.dataset not in params.datasets:
                key = f"evaluate.behaviour.tests: {behaviour.tests}: tests.{test}.dataset"
                yield unknown(key, rule.dataset, "not one of the datasets", datasets)
    except ParamsError as error:
        yield f"evaluate.behaviour.tests: {error}"
    reference = cast(Any, params.sections["evaluate"]).reference or {}
    for name in reference:
        if name not in params.tasks:
            yield unknown(f"evaluate.reference.{name}", name, "not one of the runs", list(starts))
    for name in starts:
        chain = [name]
        while starts.get(chain[-1]) in starts and starts[chain[-1]] not in chain:
            chain.append(starts[chain[-1]])
        if starts.get(chain[-1]) == name:
            yield f"tasks.{name}.init: no run can start from itself: {' <- '.join([*chain, name])}"


def _imported(folder: Path) -> bool:
    """Whether a checkpoint is there, or would be after ``dvc pull``."""
    return folder.is_dir() or folder.with_name(folder.name + ".dvc").exists()


def main() -> None:
    """Check files; their errors go to standard error, exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.params", description=__doc__)
    parser.add_argument("files", nargs="*", default=[PARAMS], type=Path)
    parser.add_argument("--name", help="what errors call the file")
    options = parser.parse_args()
    try:
        for file in options.files:
            load(file, name=options.name)
    except ParamsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
