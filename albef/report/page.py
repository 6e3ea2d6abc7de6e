"""The report as one page of HTML: no script, no address that is fetched, light and dark."""

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from albef.lineage import render_facts
from albef.report import charts, costs, search, wording
from albef.report.content import NOTHING, Report
from albef.report.metrics import Row, headline, rows
from albef.report.origins import Licence
from albef.report.results import Query, SplitResult


@cache
def environment() -> Environment:
    """What makes pages of the templates."""
    environment = Environment(
        loader=PackageLoader("albef.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": wording.number,
        "plain": wording.plain,
        "signed": wording.signed,
        "duration": wording.duration,
        "memory": wording.memory,
        "address": wording.address,
    }
    environment.globals |= {
        "train_charts": charts.train_charts,
        "val_charts": charts.val_charts,
        "headline": headline,
        "rows": rows,
        "against": wording.against,
        "metric_bar": charts.metric_bar,
        "told": render_facts,
        "nothing": NOTHING,
        "outcome_bar": charts.outcome_bar,
        "tested_bar": charts.tested_bar,
        "trial_charts": search.trial_charts,
        "importance_bars": search.importance_bars,
        "search_words": search.search_words,
    }
    return environment


def render(report: Report) -> str:
    """The page; equal contents give equal bytes."""
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            hero=_hero(report),
            facts=_facts(report),
            licences=_licences(report),
            costs=costs.cost_table(report.costs),
            machines=costs.machines(report.costs),
            versions=costs.versions(report.costs),
            unrecorded=[cost.stage for cost in report.costs if cost.record is None],
        )
    )


@dataclass(frozen=True)
class Headline:
    """A run in a few numbers: the metric of its first split, and of the others by name."""

    run: str
    row: Row
    others: tuple[tuple[str, Row], ...]


@dataclass(frozen=True)
class Hero:
    """What stands at the top: the headline of each run, and one question with its answer."""

    cards: tuple[Headline, ...]
    query: Query | None


def _hero(report: Report) -> Hero:
    cards = []
    for run in report.runs:
        known = [(split.name, row) for split in run.splits if (row := headline(split))]
        if known:
            cards.append(Headline(run.name, known[0][1], tuple(known[1:])))
    found = [
        (split, query)
        for run in report.runs
        for split in run.splits
        for gallery in split.galleries
        if gallery.good and not gallery.paired
        for query in gallery.queries
        if query.text
    ]
    # Rather one that ITC alone does not find, but only where that is what re-ranking comes to.
    found.sort(key=lambda pair: not (pair[1].rank_itc and _gains(pair[0])))
    return Hero(tuple(cards), found[0][1] if found else None)


def _facts(report: Report) -> list[tuple[str, str]]:
    """What one wants to know of the whole before reading on."""
    took = costs.cost_table(report.costs)
    machines = costs.machines(report.costs)
    found = [("seed", str(report.seed))]
    if took.seconds:
        found.append(("time", wording.duration(took.seconds)))
    if took.core_hours:
        found.append(("core hours", f"{took.core_hours:.2f}"))
    if took.gpu_hours:
        found.append(("GPU hours", f"{took.gpu_hours:.2f}"))
    if machines:
        last = max(machines, key=lambda machine: machine.started)
        found.append(("machine", last.machine))
        if last.started:
            found.append(("made", last.started.partition("T")[0]))
        if last.revision:
            clean = "" if last.clean else ", with uncommitted changes"
            found.append(("git", last.revision[:12] + clean))
    return found if report.runs else []


def _gains(split: SplitResult) -> bool:
    row = headline(split)
    return row is not None and row.itc is not None and row.value > row.itc


def _licences(report: Report) -> list[Licence]:
    """Every licence once."""
    return list(dict.fromkeys(entry for data in report.datasets for entry in data.licences))
