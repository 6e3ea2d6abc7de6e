"""Runs side by side: what the comparison holds, as plain values, and its page.

Sides are named by their place; the first is the baseline. Texts are shown as they are and are not
trusted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from albef.evaluation.statistics import Interval, Spread
from albef.report import metric_names
from albef.report.curves import Curves, Deviation
from albef.report.drift import Drift
from albef.report.figures import COLOURS, Chart, Line
from albef.report.flips import Flip
from albef.report.page import environment
from albef.report.wording import format_difference, format_number, format_range

_VERDICTS = {1: "better", -1: "worse", 0: "not resolved"}


@dataclass(frozen=True)
class Side:
    """One of what is compared; the working tree has no commit.

    It is held ``against`` another side: of another group of seeds the one with its own seeds, else
    the baseline, from whose code the files ``code`` differ.
    """

    name: str
    commit: str = ""
    subject: str = ""
    seeds: tuple[int, ...] = ()
    against: int = 0
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric of a split on each side; None where a side lacks it."""

    name: str
    values: tuple[float | None, ...]

    def difference(self, before: int, after: int) -> float | None:
        """How far one side is from another."""
        old, new = self.values[before], self.values[after]
        return None if old is None or new is None else new - old


@dataclass(frozen=True)
class Paired:
    """Two sides on the ``shared`` of ``of`` examples, those that both answered.

    ``difference`` and ``interval`` are of the metric there, after less before; ``p`` is McNemar's
    exact test of the answers that turned. ``part``: whether another of these is the whole of it.
    """

    before: int
    after: int
    metric: str
    shared: int
    of: int
    difference: float
    interval: Interval
    gained: int
    lost: int
    p: float
    better: tuple[Flip, ...] = ()
    worse: tuple[Flip, ...] = ()
    part: bool = False

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.gained or self.lost or self.interval.low or self.interval.high)

    @property
    def verdict(self) -> str:
        """What it says, in a word."""
        return "equal" if self.equal else _VERDICTS[self.interval.sign]


@dataclass(frozen=True)
class Split:
    """A split of a run: its metrics, what two sides differ in example by example, and notes."""

    run: str
    name: str
    metrics: tuple[Metric, ...]
    paired: tuple[Paired, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> tuple[Metric, ...]:
        """The metric that it is judged by, and the same by ITC alone."""
        first = self.metrics[0].name
        return tuple(m for m in self.metrics if metric_names.plain(m.name) == first)


@dataclass(frozen=True)
class Data:
    """A data set that is on two sides; without drift it is the same."""

    name: str
    before: int
    after: int
    drift: Drift | None = None


@dataclass(frozen=True)
class SeedRow:
    """A metric over the seeds of a group, and how far it is from the first group or the one before:
    None in the first, and where it cannot be told."""

    run: str
    split: str
    metric: str
    group: int
    spread: Spread
    difference: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything on the page, the baseline's side first.

    ``values`` of params.yaml are those that are not the same on all sides, by key; "" where one
    lacks it. ``groups`` are sides that differ in nothing but their seeds, none where no seed is
    repeated; each is held against the one before it if ``stepwise``, else against the first.
    ``notes`` say what is missing.
    """

    sides: tuple[Side, ...]
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: tuple[Data, ...] = ()
    splits: tuple[Split, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    stepwise: bool = False
    seeds: tuple[SeedRow, ...] = ()
    curves: tuple[Curves, ...] = ()
    reference: Curves = field(default_factory=dict)
    reference_name: str = ""
    deviations: tuple[Deviation, ...] = ()
    notes: tuple[str, ...] = ()

    def label(self, group: int) -> str:
        """The sides of a group, by name: by what stands before ``-seedN`` if it is the same."""
        names = [self.sides[side].name for side in self.groups[group]]
        stems = {re.sub(r"-seed\d+$", "", name) for name in names}
        return stems.pop() if len(stems) == 1 else ", ".join(names)


def render(comparison: Comparison) -> str:
    """The page; equal contents give equal bytes."""
    template = environment().get_template("comparison.html.j2")
    tests = [(split, test) for split in comparison.splits for test in split.paired]
    widest = max((max(abs(t.interval.low), abs(t.interval.high)) for _, t in tests), default=0.0)
    return template.render(
        comparison=comparison,
        tests=tests,
        cards=[(split, test) for split, test in tests if not (test.equal or test.part)],
        flipped=[(s, t) for s, t in tests if t.better or t.worse],
        trainings=list(trainings(comparison)),
        widest=widest,
        interval_words=interval_words,
        verdict=verdict,
        difference=format_difference,
        chance=chance,
        words=metric_names.words,
        format_range=format_range,
        colour=lambda side: f"c{1 + side % COLOURS}",
    )


def verdict(interval: Interval) -> str:
    """What an interval says, in a word."""
    return "equal" if interval.low == interval.high == 0 else _VERDICTS[interval.sign]


def interval_words(value: float, interval: Interval) -> str:
    """A difference and its interval for a reader."""
    middle, low, high = map(format_difference, (value, interval.low, interval.high))
    return f"{middle} ({low} to {high})"


def chance(p: float) -> str:
    """A probability for a reader."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def metrics_of(
    sections: Sequence[Mapping[str, float]], headline: str | None = None
) -> tuple[Metric, ...]:
    """The metrics of a split on all sides, the one that it is judged by first."""
    names = sorted(
        dict.fromkeys(name for section in sections for name in section),
        key=lambda name: (name != headline, metric_names.order(name)),
    )
    return tuple(Metric(name, tuple(s.get(name) for s in sections)) for name in names)


@dataclass(frozen=True)
class Overlay:
    """The curves of a training on all sides: losses and validation, and the rest."""

    name: str
    legend: Sequence[tuple[str, str]]
    main: Sequence[Chart]
    rest: Sequence[Chart]
    same: bool


def trainings(comparison: Comparison) -> Iterator[Overlay]:
    """The trainings that are on two sides, or on one and in the reference."""
    sets = [*comparison.curves, *([comparison.reference] if comparison.reference else [])]
    names = [side.name for side in comparison.sides[: len(comparison.curves)]]
    looks = [Line(name, (), 1 + place % COLOURS) for place, name in enumerate(names)]
    if comparison.reference:
        colour = 1 + len(looks) % COLOURS
        looks.append(Line(comparison.reference_name, (), colour, dashed=True))
    for training in dict.fromkeys(name for curves in sets for name in curves):
        sides = [(c[training], look) for c, look in zip(sets, looks, strict=True) if training in c]
        if len(sides) < 2:
            continue
        same = all(curves == sides[0][0] for curves, _ in sides)
        drawn = set() if same else {name for curves, _ in sides for name in curves}
        curve_names = sorted(drawn, key=_curve_order)
        judged = next((name for name in curve_names if name.startswith("val/")), "")
        charts = {
            name: _chart(name, [replace(look, points=c[name]) for c, look in sides if c.get(name)])
            for name in curve_names
        }
        main = [c for name, c in charts.items() if name.startswith("train/") or name == judged]
        main = main or list(charts.values())
        legend = [(look.label, look.look) for _, look in sides]
        rest = [chart for chart in charts.values() if chart not in main]
        yield Overlay(training, legend, main, rest, same)


def _curve_order(name: str) -> tuple[int, tuple[bool, int, str, int]]:
    kind, _, rest = name.rpartition("/")
    return ["train", "val", kind].index(kind), metric_names.order(rest)


def _chart(name: str, lines: Sequence[Line]) -> Chart:
    kind, _, rest = name.rpartition("/")
    title = metric_names.label(rest) + (", validation" if kind == "val" else "")
    last = " / ".join(format_number(line.points[-1][1]) for line in lines)
    return Chart(title, f"last {last}" if len(lines) <= 3 else "", (), "step", lines)
