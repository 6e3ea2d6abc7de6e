"""The report as one HTML page that loads nothing and runs no script.

Any artifact may be missing; the page then says so. Texts of artifacts are not trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from albef.config import flatten
from albef.layout import Layout
from albef.lineage import Project, Step, render_facts
from albef.report import curves, figures, wording
from albef.report.curves import Curve
from albef.report.sections import datasets, provenance, results, search
from albef.report.sections.datasets import Dataset, DatasetPage
from albef.report.sections.provenance import Costs
from albef.report.sections.results import Run
from albef.report.sections.search import Search


@dataclass(frozen=True)
class Report:
    """Content of the page, as far as it is available."""

    seed: int
    runs: Sequence[Run] = ()
    trainings: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    """Training curves by the name of the resulting model."""
    datasets: Sequence[Dataset] = ()
    searches: Sequence[Search] = ()
    costs: Costs = field(default_factory=Costs)
    chains: Sequence[Step] = ()
    """Lineage of each export, or of a checkpoint that is not exported, back to the sources."""
    cards: Sequence[str] = ()
    """Runs that have a model card, ``cards/RUN.md`` next to the page."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values of params.yaml that define the experiment, by dotted name."""


def read(params: Mapping[str, Any], project: Project, count: int) -> Report:
    """Return the report on all available artifacts of a project, with ``count`` examples per group.

    ``params`` are the sections that define the experiment, as plain values.
    """
    layout: Layout = project.layout
    tasks: Mapping[str, Any] = params.get("tasks", {})
    inits = [values.get("init", "pretrained") for values in tasks.values()]
    models = dict.fromkeys(["pretrained", *(init for init in inits if init not in tasks), *tasks])
    return Report(
        seed=params["seed"],
        runs=[results.read(params, layout, run, count) for run in tasks],
        trainings={
            name: curves.read(layout.curves(name))
            for name in models
            if layout.curves(name).is_dir()
        },
        datasets=[datasets.read(layout, name, by, count) for name, by in used_by(params).items()],
        searches=[search.read(layout, run) for run in tasks],
        costs=provenance.read_costs(params, layout),
        chains=list(provenance.read_chains(project)),
        values=dict(flatten(params)),
    )


def used_by(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the users of each dataset by its name: pre-training, runs and filtered datasets."""
    filtered = params.get("curate") or {}
    users: dict[str, list[str]] = {name: [] for name in (*params.get("datasets", {}), *filtered)}
    for name, values in filtered.items():
        users.setdefault(values["dataset"], []).append(f"filtered dataset {name}")
    trainings = {"pre-training": params.get("pretrain", {}), **params.get("tasks", {})}
    for user, values in trainings.items():
        if dataset := values.get("dataset"):
            users.setdefault(dataset, []).append(user)
    return users


@cache
def environment() -> Environment:
    """Return the environment that renders the templates."""
    environment = Environment(
        loader=PackageLoader("albef.report"),
        autoescape=lambda name: not str(name).endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "metric": wording.format_metric,
        "number": wording.format_number,
        "coordinate": lambda value: f"{value:.1f}".removesuffix(".0"),
        "value": wording.format_value,
        "difference": wording.format_difference,
        "training_first": wording.training_first,
        "duration": wording.format_duration,
        "address": wording.web_address,
        "facts": render_facts,
    }
    environment.globals |= {
        **{name: value for name, value in vars(figures).items() if name.isupper()},
        "draw_training": curves.draw_training,
        "draw_validation": curves.draw_validation,
    }
    return environment


def render(report: Report) -> str:
    """Return the page; equal contents give equal bytes."""
    entries = [tuple(licence.items()) for data in report.datasets for licence in data.licences]
    medians = (split.median for run in report.runs for split in run.splits if split.median)
    licences = [dict(entry) for entry in dict.fromkeys(entries)]
    template = environment().get_template("page.html.j2")
    return template.render(report=report, query=next(medians, None), licences=licences)


def render_dataset(page: DatasetPage) -> str:
    """Return the page of a dataset; equal contents give equal bytes."""
    template = environment().get_template("dataset.html.j2")
    return template.render(page=page, words=datasets.WORDS)
