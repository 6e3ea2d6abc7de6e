"""Comparison of runs: its content as plain values, and its page.

A side is identified by its index; the first one is the baseline. Texts are not trusted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from albef.evaluation.statistics import CONFIDENCE, Interval, Spread, holm
from albef.report import metric_names
from albef.report.figures import COLOURS
from albef.report.flips import Flip
from albef.report.page import environment
from albef.report.wording import format_difference

_VERDICTS = {1: "better", -1: "worse", 0: "not resolved"}


@dataclass(frozen=True)
class Side:
    """One side of a comparison; the working tree has no commit.

    It is compared with side ``against``. ``code`` lists the files that differ from the baseline's.
    """

    name: str
    commit: str = ""
    subject: str = ""
    seeds: tuple[int, ...] = ()
    against: int = 0
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric of a split on each side; None for a side that lacks it."""

    name: str
    values: tuple[float | None, ...]

    def difference(self, before: int, after: int) -> float | None:
        """Return the difference between two sides; None if one of them lacks the metric."""
        old, new = self.values[before], self.values[after]
        return None if old is None or new is None else new - old


@dataclass(frozen=True)
class Paired:
    """Paired test of two sides on the ``shared`` of ``of`` examples that both answered.

    ``difference`` and ``interval`` are of the metric on these examples, after minus before. ``p``
    is McNemar's exact test on the answers that changed, corrected by :func:`correct`. ``part`` is
    true if another paired test includes this one.
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
        """Return whether nothing differs."""
        return not (self.gained or self.lost or self.interval.low or self.interval.high)

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes zero and the corrected p is small, else 0."""
        return self.interval.sign if self.p < 1 - CONFIDENCE else 0

    @property
    def verdict(self) -> str:
        """Return the result in a word."""
        return "equal" if self.equal else _VERDICTS[self.sign]


@dataclass(frozen=True)
class Split:
    """A split of a run: its metrics, paired tests of two sides, and notes."""

    run: str
    name: str
    metrics: tuple[Metric, ...]
    paired: tuple[Paired, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def main_metrics(self) -> tuple[Metric, ...]:
        """Return the metric that the split is judged by, and the same metric by ITC alone."""
        first = self.metrics[0].name
        return tuple(m for m in self.metrics if metric_names.plain(m.name) == first)


@dataclass(frozen=True)
class SeedRow:
    """A metric over the seeds of a group, and its difference from the first or previous group.

    ``difference`` is None in the first group, and if it cannot be computed.
    """

    run: str
    split: str
    metric: str
    group: int
    spread: Spread
    difference: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """Content of the page, with the baseline first.

    ``values`` has the values of params.yaml that differ between sides, by key; "" if a side lacks
    one. ``data`` has the datasets of all sides, and whether they are equal. ``groups`` are sides
    that differ only in their seeds; it is empty if no values have several seeds. ``stepwise``
    compares each group with the previous one instead of the first. ``notes`` name what is missing.
    """

    sides: tuple[Side, ...]
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data: Mapping[str, bool] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    stepwise: bool = False
    seeds: tuple[SeedRow, ...] = ()
    notes: tuple[str, ...] = ()

    def group_label(self, group: int) -> str:
        """Return the names of the sides of a group, or their common part before ``-seedN``."""
        names = [self.sides[side].name for side in self.groups[group]]
        stems = {re.sub(r"-seed\d+$", "", name) for name in names}
        return stems.pop() if len(stems) == 1 else ", ".join(names)


def correct(splits: Sequence[Split], *, stepwise: bool) -> Iterator[Split]:
    """Yield splits with p-values corrected by Holm's method for the number of all paired tests.

    The tests of each metric are sorted, the best first. If ``stepwise``, they keep the order of
    the sides.
    """
    p_values = iter(holm([test.p for split in splits for test in split.paired]))
    for split in splits:
        tests = [replace(test, p=next(p_values)) for test in split.paired]
        metrics = list(dict.fromkeys(test.metric for test in tests))
        tests.sort(key=lambda t: (metrics.index(t.metric), 0 if stepwise else -t.difference))
        yield replace(split, paired=tuple(tests))


def render(comparison: Comparison) -> str:
    """Return the page; equal contents give equal bytes."""
    template = environment().get_template("comparison.html.j2")
    tests = [(split, test) for split in comparison.splits for test in split.paired]
    widest = max((max(abs(t.interval.low), abs(t.interval.high)) for _, t in tests), default=0.0)
    return template.render(
        comparison=comparison,
        tests=tests,
        cards=[(split, test) for split, test in tests if not (test.equal or test.part)],
        flipped=[(s, t) for s, t in tests if t.better or t.worse],
        widest=widest,
        format_interval=format_interval,
        verdict=verdict,
        difference=format_difference,
        format_p=format_p,
        describe=metric_names.describe,
        colour=lambda side: f"c{1 + side % COLOURS}",
    )


def verdict(interval: Interval) -> str:
    """Return the result of an interval in a word."""
    return "equal" if interval.low == interval.high == 0 else _VERDICTS[interval.sign]


def format_interval(value: float, interval: Interval) -> str:
    """Format a difference and its interval."""
    middle, low, high = map(format_difference, (value, interval.low, interval.high))
    return f"{middle} ({low} to {high})"


def format_p(p: float) -> str:
    """Format a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def metrics_of(
    sections: Sequence[Mapping[str, float]], headline: str | None = None
) -> tuple[Metric, ...]:
    """Return the metrics of a split on all sides, headline metric first."""
    names = sorted(
        dict.fromkeys(name for section in sections for name in section),
        key=lambda name: (name != headline, metric_names.order(name)),
    )
    return tuple(Metric(name, tuple(s.get(name) for s in sections)) for name in names)
