"""The report as one page of HTML: no script, no address that is fetched, light and dark."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from albef.report import figures
from albef.report.behaviour import Tested
from albef.report.content import (
    Cost,
    Licence,
    Outcome,
    Query,
    Report,
    SplitResult,
    Training,
)
from albef.report.figures import Chart as Chart
from albef.report.metrics import ITC, Row, flatten, group, headline, order, rows
from albef.report.search import importance_bars, search_words, trial_charts

_TITLES = {
    "loss": "Loss",
    "itc": "ITC loss",
    "itm": "ITM loss",
    "mlm": "MLM loss",
    "lr": "Learning rate",
    "gradient_norm": "Gradient norm",
    "temperature": "Temperature",
    "alpha": "Weight of the twin",
    "r_mean": "Mean recall",
    "accuracy": "Accuracy",
    "tr": "Picture to text, recall",
    "ir": "Text to picture, recall",
}
_COLOURS = 6


def curve_title(name: str) -> str:
    """The words of a curve's name; of ``accuracy_GROUP`` the group stays."""
    whole, _, group = name.partition("_")
    if name not in _TITLES and whole in _TITLES:
        return f"{_TITLES[whole]}, {group}"
    return _TITLES.get(name, name)


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
        "number": number,
        "plain": plain,
        "signed": signed,
        "duration": duration,
        "memory": memory,
        "address": address,
    }
    environment.globals |= {
        "train_charts": train_charts,
        "val_charts": val_charts,
        "headline": headline,
        "rows": rows,
        "against": against,
        "metric_bar": metric_bar,
        "tested_bar": tested_bar,
        "outcome_bar": outcome_bar,
        "trial_charts": trial_charts,
        "importance_bars": importance_bars,
        "search_words": search_words,
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
            licences=_licences(report),
            costs=_costs(report.costs),
            machines=_machines(report.costs),
            versions=_versions(report.costs),
            unrecorded=[cost.stage for cost in report.costs if cost.record is None],
        )
    )


# Numbers and texts


def number(value: float | None) -> str:
    """A metric for a reader; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference for a reader."""
    return f"{value:+.1f}".replace("-", "−")


def plain(value: object) -> str:
    """A value of params.yaml as it would stand there."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):
        return figures.show(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(plain, value))}]"
    return str(value)


def duration(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def memory(mib: float) -> str:
    """MiB for a reader."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.2f} GiB"


def address(url: str) -> str:
    """An address that may be linked to, or "": what a data set names is not trusted."""
    return url if url.startswith(("https://", "http://")) else ""


def against(row: Row) -> str:
    """How far a metric is above chance, in words; "" where that is not known."""
    if not row.chance or row.value <= row.chance:
        return f"chance is {number(row.chance)} %" if row.chance else ""
    times = row.value / row.chance
    if times >= 3:
        return f"{times:.0f} times chance ({number(row.chance)} %)"
    return f"{row.value - row.chance:.1f} points above chance ({number(row.chance)} %)"


# Figures


def metric_bar(row: Row) -> Markup:
    """A metric from 0 to 100, with the baselines marked."""
    marks = [
        figures.Mark(value, shape, look)
        for value, shape, look in (
            (row.chance, "tick", "chance"),
            (row.random_weights, "ring", "random"),
            (row.text_only, "ring", "text"),
            (row.itc, "tick", "itc"),
        )
        if value is not None
    ]
    return figures.bar(row.value, 100.0, marks, name=f"{row.name} {number(row.value)}")


def tested_bar(test: Tested) -> Markup:
    """The share of cases that pass, with the baselines marked."""
    marks = [
        figures.Mark(value, shape, look)
        for value, shape, look in (
            (test.chance, "tick", "chance"),
            (test.random_weights, "ring", "random"),
        )
        if value is not None
    ]
    return figures.bar(test.rate, 100.0, marks, name=f"{test.name} {number(test.rate)}")


def outcome_bar(outcome: Outcome) -> Markup:
    """Who puts the right answer first, as shares."""
    parts = [
        (outcome.both, "both", f"ITM and ITC: {outcome.both:,}"),
        (outcome.itm, "gain", f"ITM alone: {outcome.itm:,}"),
        (outcome.itc, "loss", f"ITC alone: {outcome.itc:,}"),
        (outcome.neither, "none", f"neither: {outcome.neither:,}"),
    ]
    return figures.stack(parts, name="; ".join(label for _, _, label in parts))


def train_charts(training: Training) -> Iterator[Chart]:
    """Each loss by step, or their sum where it is alone, and whatever else is logged by step."""
    curves = {name: c for name, c in training.curves.items() if not name.startswith("val/")}
    losses = [name for name in curves if name.startswith("train/")]
    if len(losses) > 2:  # a sum and its parts
        losses = [name for name in losses if name != "train/loss"]
    rest = [name for name in curves if not name.startswith("train/")]
    for name in [*sorted(losses), *rest]:
        points = curves[name]
        title = curve_title(name.removeprefix("train/"))
        svg = figures.lines([figures.Line(name, points)], x_label="step", name=f"{title} by step")
        word, value = "last", points[-1][1]
        if name == "lr":
            word, value = "most", max(value for _, value in points)
        yield Chart(title, f"{word} {figures.show(value)}", (), svg)


def val_charts(training: Training) -> Iterator[Chart]:
    """Validation by epoch: metrics of one group in one figure, those of ITC alone dashed."""
    val = {n.removeprefix("val/"): c for n, c in training.curves.items() if n.startswith("val/")}
    groups: dict[str, list[str]] = {}
    for name in sorted(val, key=order):
        if name.startswith(ITC) and val[name] == val.get(name.removeprefix(ITC)):
            continue  # nothing was re-ranked
        groups.setdefault(group(name), []).append(name)
    for base, members in groups.items():
        own = [name for name in members if not name.startswith(ITC)] or members
        colours = {name: 1 + i % _COLOURS for i, name in enumerate(own)}
        lines = [
            figures.Line(
                label=name,
                points=[(epoch, value) for epoch, (_, value) in enumerate(val[name], 1)],
                colour=colours.get(name) or colours.get(name.removeprefix(ITC), _COLOURS),
                dashed=name not in own,
            )
            for name in members
        ]
        legend = [(name, f"c{colour}") for name, colour in colours.items()]
        if len(own) < len(members):
            legend.append(("ITC alone", "dashed"))
        title = curve_title(base)
        yield Chart(
            title,
            f"last {number(val[own[0]][-1][1])}" if len(own) == 1 else "",
            tuple(legend) if len(legend) > 1 else (),
            figures.lines(lines, x_label="epoch", name=f"{title} by epoch"),
        )


# Parts of the page that need more than one part of the report


@dataclass(frozen=True)
class Hero:
    """What stands at the top: the headline of each split, and one question with its answer."""

    cards: tuple[tuple[str, SplitResult, Row], ...]
    query: Query | None


def _hero(report: Report) -> Hero:
    cards = tuple(
        (run.name, split, row)
        for run in report.runs
        for split in run.splits
        if (row := headline(split)) is not None
    )
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
    return Hero(cards, found[0][1] if found else None)


def _gains(split: SplitResult) -> bool:
    row = headline(split)
    return row is not None and row.itc is not None and row.value > row.itc


def _licences(report: Report) -> list[Licence]:
    """Every licence once."""
    return list(dict.fromkeys(entry for data in report.datasets for entry in data.licences))


@dataclass(frozen=True)
class CostRow:
    """A stage and its bars; ``extra`` are further facts in words."""

    stage: str
    seconds: float
    time: Markup
    mib: float | None
    memory: Markup
    extra: str


@dataclass(frozen=True)
class CostTable:
    """The stages with a run record, and their sums."""

    rows: tuple[CostRow, ...]
    seconds: float
    mib: float


_EXTRA = (
    ("samples_per_second", "{:,.0f} samples/s"),
    ("steps", "{:,} steps"),
    ("precision", "{}"),
    ("trials", "{} trials"),
    ("parameters", "{:,} parameters"),
)


def _costs(costs: Iterable[Cost]) -> CostTable:
    known = [(c.stage, c.record) for c in costs if c.record is not None and "seconds" in c.record]
    longest = max((record["seconds"] for _, record in known), default=0.0)
    most = max((record.get("peak_memory_mib") or 0 for _, record in known), default=0.0)
    table = []
    for stage, record in known:
        mib = record.get("peak_memory_mib")
        extra = [text.format(record[key]) for key, text in _EXTRA if record.get(key)]
        seconds = record["seconds"]
        table.append(
            CostRow(
                stage,
                seconds,
                figures.bar(seconds, longest, (), name=f"{stage}: {duration(seconds)}"),
                mib,
                figures.bar(mib or 0, most, (), name=f"{stage}: {memory(mib or 0)}", look="memory"),
                ", ".join(extra),
            )
        )
    return CostTable(tuple(table), sum(row.seconds for row in table), most)


@dataclass(frozen=True)
class Machine:
    """Where and from which revision some stages ran."""

    machine: str
    python: str
    revision: str
    clean: bool | None
    started: str
    stages: tuple[str, ...]


def _machines(costs: Iterable[Cost]) -> list[Machine]:
    """Stages grouped by machine and revision, in order."""
    found: dict[tuple[str, str, str, bool | None], list[tuple[str, str]]] = {}
    for cost in costs:
        if cost.record is not None:
            git = cost.record.get("git") or {}
            key = (
                str(cost.record.get("machine", "unknown machine")),
                str(cost.record.get("python", "")),
                str(git.get("revision", "")),
                git.get("clean"),
            )
            found.setdefault(key, []).append((cost.stage, str(cost.record.get("started", ""))))
    return [
        Machine(
            machine=machine,
            python=python,
            revision=revision,
            clean=clean,
            started=min(start for _, start in stages),
            stages=tuple(stage for stage, _ in stages),
        )
        for (machine, python, revision, clean), stages in found.items()
    ]


def _versions(costs: Iterable[Cost]) -> Mapping[str, str]:
    """Versions of packages; several where stages ran with different ones."""
    found: dict[str, dict[str, None]] = {}
    for cost in costs:
        for name, version in flatten((cost.record or {}).get("versions", {})):
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(versions) for name, versions in sorted(found.items())}
