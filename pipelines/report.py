"""Gather what there is of all products and write the report: a page, and cards of the runs."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from albef.config import Section
from albef.layout import Layout
from albef.lineage import CONFIG, Project, Step, of_checkpoint, of_export
from albef.report import curves, dataset_page
from albef.report.card import markdown
from albef.report.content import NOTHING, Report, Search, Training, Trial
from albef.report.metrics import flatten
from albef.report.origins import Cost
from albef.report.page import render
from albef.runtime.manifest import NAME as MANIFEST
from pipelines.cards import read_card
from pipelines.datasets import read_page
from pipelines.origins import read_dataset, read_export, read_model
from pipelines.results import read_run
from pipelines.stage import Stage, code_of, main, read_json

NOT_SHOWN = ("paths", "runtime", "release")
"""Sections of params.yaml that change no product."""


class ReportConfig(Section):
    """Values of the report."""

    examples: Annotated[int, Field(ge=1, le=100)] = 8
    """Queries, pairs and sample pictures shown of each group."""


def run(stage: Stage) -> None:
    """Write the report on everything that exists by now."""
    config = stage.section("report", ReportConfig)
    report = gather(stage.params, stage.layout, stage.seed, config.examples)
    path = stage.layout.report()
    cards = _write(stage.layout.cards(), ".md", _cards(stage))
    pages = _write(
        stage.layout.data_pages(),
        ".html",
        (
            (data.name, dataset_page.render(read_page(stage.layout, data, config.examples)))
            for data in report.datasets
        ),
    )
    page = render(replace(report, cards=tuple(card.stem for card in cards)))
    path.write_text(page)
    stage.made(path, *cards, *pages)
    stage.record["bytes"] = len(page.encode())


def _write(folder: Path, suffix: str, texts: Iterable[tuple[str, str]]) -> list[Path]:
    """A folder of texts by name, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts:
        (folder / f"{name}{suffix}").write_text(text)
    return sorted(folder.iterdir())


def _cards(stage: Stage) -> Iterator[tuple[str, str]]:
    """The model card of each run that was evaluated, by name."""
    for name in stage.params.get("tasks", {}):
        card = read_card(stage.params, stage.layout, name)
        if card is not None:
            yield name, markdown(card)


def gather(params: Mapping[str, Any], layout: Layout, seed: int, count: int) -> Report:
    """Read the products of a params file.

    Args:
        params: the whole file, plain.
        layout: where products lie.
        seed: of the run.
        count: examples of each group.
    """
    tasks: Mapping[str, Any] = params.get("tasks", {})
    inits = [values.get("init", "pretrained") for values in tasks.values()]
    models = dict.fromkeys(["pretrained", *(init for init in inits if init not in tasks), *tasks])
    used: dict[str, list[str]] = {name: [] for name in params.get("datasets", {})}
    owners = {"pre-training": params.get("pretrain", {}), **tasks}
    for owner, values in owners.items():
        used.setdefault(values.get("dataset", ""), []).append(owner)
    used.pop("", None)
    return Report(
        seed=seed,
        runs=tuple(read_run(layout, name, values, count) for name, values in tasks.items()),
        trainings=tuple(
            Training(name, curves.read(layout.curves(name)))
            for name in models
            if layout.curves(name).is_dir()
        ),
        datasets=tuple(read_dataset(layout, name, tuple(by), count) for name, by in used.items()),
        searches=tuple(_search(layout, name, values) for name, values in tasks.items()),
        costs=tuple(Cost(name, read_json(layout.record(name))) for name in _stages(params)),
        models=tuple(read_model(layout, name) for name in models),
        exports=tuple(
            read_export(layout, name, manifest)
            for name in tasks
            if (manifest := read_json(layout.export(name) / MANIFEST)) is not None
        ),
        chains=tuple(_chains(params, layout)),
        values=dict(flatten({k: v for k, v in params.items() if k not in NOT_SHOWN})),
    )


def _chains(params: Mapping[str, Any], layout: Layout) -> Iterator[Step]:
    """The chain of each run, from its export or, without one, its checkpoint."""
    runs = tuple(params.get("tasks", {}))
    project = Project(Path(), layout, runs, lambda address: code_of(address, params))
    for name in runs:
        if (layout.export(name) / MANIFEST).is_file():
            yield of_export(layout.export(name), project)
        elif (layout.model(name) / CONFIG).is_file():
            yield of_checkpoint(name, project)


def _stages(params: Mapping[str, Any]) -> Iterator[str]:
    """Addresses of the stages before this one, in the order of the graph."""
    for name in ("ingest", "validate"):
        yield from (f"{name}@{dataset}" for dataset in params.get("datasets", {}))
    yield "pretrain"
    for name in ("search", "finetune", "evaluate"):
        yield from (f"{name}@{run}" for run in params.get("tasks", {}))
    yield from (f"export@{run}" for run in params.get("export", {}).get("runs", {}))


def _search(layout: Layout, name: str, values: Mapping[str, Any]) -> Search:
    choice = read_json(layout.search(name) / "choice.json")
    if choice is None:
        note = f"There has been no search yet: {layout.search(name)} is missing."
        return Search(name, note=note)
    told = read_json(layout.search(name) / "trials.json") or {}
    trials = told.get("trials", [])
    scales = {
        key: bool(value.get("log"))
        for key, value in values.items()
        if isinstance(value, Mapping) and "low" in value
    }
    best = [t for t in trials if t["params"] == choice and t["value"] is not None][:1]
    return Search(
        run=name,
        scales=scales,
        choice=choice,
        trials=tuple(
            Trial(
                number=trial["number"],
                state=trial["state"],
                params=trial["params"],
                values=tuple(trial["values"]),
                value=trial["value"],
                start=trial["start"],
                chosen=trial in best,
                error=trial.get("error", ""),
            )
            for trial in trials
        ),
        note="" if trials else NOTHING,
        evidence=told.get("evidence", {}),
    )


if __name__ == "__main__":
    main(run)
