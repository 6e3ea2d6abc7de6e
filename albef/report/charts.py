"""The figures of the page: curves, trials, and metrics beside their baselines."""

from collections.abc import Iterator

from markupsafe import Markup

from albef.report import figures
from albef.report.behaviour import Tested
from albef.report.content import Training
from albef.report.figures import Chart
from albef.report.metrics import ITC, Row, group, order, words
from albef.report.results import Outcome
from albef.report.wording import number

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
_FIRST = ("r_mean", "accuracy", "overall", "tr", "ir")
"""Groups of validation metrics that are looked at first."""


def curve_title(name: str) -> str:
    """The words of a curve's name; of ``accuracy_GROUP`` the group stays."""
    whole, _, group = name.partition("_")
    if name not in _TITLES and whole in _TITLES:
        return f"{_TITLES[whole]}, {group}"
    return _TITLES.get(name) or words(name).capitalize() or name


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
        yield Chart(title, f"{word} {figures.show(value)}", (), svg, name not in rest)


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
            base in _FIRST,
        )
