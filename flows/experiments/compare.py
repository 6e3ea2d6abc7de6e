"""``albef compare A B ...``: compare experiments or git revisions. No stage runs again."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef.layout import BEHAVIOUR
from albef.report.comparison import (
    Comparison,
    Metric,
    Split,
    format_interval,
    format_p,
    render,
    verdict,
)
from albef.report.wording import format_difference
from flows.experiments.gather import gather
from flows.results import table

OUT = Path(".albef/compare")


def compare(
    revisions: Sequence[str], out: Path | None = None, examples: int = 6, *, stepwise: bool = False
) -> int:
    """Print the comparison and write its page; return exit code 1 if something is missing.

    Raises:
        ParamsError: a revision does not exist, or there is nothing to compare.
    """
    comparison, problems = gather(revisions, examples, stepwise=stepwise)
    path = write(comparison, out)
    print(text(comparison))
    print(f"\npage: {path}")
    for note in comparison.notes:
        print(f"albef compare: {note}", file=sys.stderr)
    return int(bool(problems))


def write(comparison: Comparison, out: Path | None) -> Path:
    """Write the page of a comparison and return its path."""
    if out is None:
        plain = (re.sub(r"[^\w.+-]+", "-", side.name).strip(".-") for side in comparison.sides)
        out = OUT / f"{'-vs-'.join(plain)[:200]}.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(comparison))
    return out


def text(comparison: Comparison) -> str:
    """Return the comparison as text for a terminal."""
    parts = [part(comparison) for part in (_values, _metrics, _seeds)]
    notes = [f"note: {s.run} {s.name}: {note}" for s in comparison.splits for note in s.notes]
    return "\n\n".join(part for part in (*parts, "\n".join(notes)) if part)


def results(comparison: Comparison) -> str:
    """Return the metrics alone: over seeds, or those of each side if no seed is repeated."""
    return _seeds(comparison) or _metrics(comparison)


def _values(comparison: Comparison) -> str:
    if not comparison.values:
        return "values: none differs"
    rows = [(key, *(value or "-" for value in values)) for key, values in comparison.values.items()]
    return table(rows, ("value", *(side.name for side in comparison.sides)))


def _metrics(comparison: Comparison) -> str:
    rows = [
        row
        for split in comparison.splits
        for metric in split.metrics
        if metric in split.main_metrics or split.name == BEHAVIOUR
        for row in _metric_rows(comparison, split, metric)
    ]
    if not rows:
        return ""
    header = ("run", "metric", "sides", "before", "after", "difference (95 %)", "flips", "")
    parts = [table(rows, header)]
    if count := sum(len(split.paired) for split in comparison.splits):
        corrected = f", corrected by Holm's method for {count} tests" if count > 1 else ""
        parts.append(
            f"p: McNemar's test of the flips{corrected}; better, worse: the interval excludes zero "
            "and p < 0.05"
        )
    return "\n".join(parts)


def _metric_rows(comparison: Comparison, split: Split, metric: Metric) -> Iterator[tuple[str, ...]]:
    """Yield a row for each side but the baseline, the largest gain first unless stepwise."""
    tests = {test.after: test for test in split.paired if test.metric == metric.name}
    name = metric.name if split.name == "test" else f"{split.name} {metric.name}"
    differences = {
        after: tests[after].difference if after in tests else metric.difference(side.against, after)
        for after, side in enumerate(comparison.sides[1:], 1)
    }
    order = list(differences)
    if not comparison.stepwise:
        order.sort(key=lambda after: -(differences[after] or 0.0))
    for after in order:
        before = comparison.sides[after].against
        names = f"{comparison.sides[before].name} -> {comparison.sides[after].name}"
        values = (metric.values[index] for index in (before, after))
        numbers = ("-" if value is None else f"{value:.2f}" for value in values)
        change = (format_difference(differences[after]), "", "")
        if test := tests.get(after):
            flips = f"+{test.gained} −{test.lost}, p {format_p(test.p)}"
            change = (format_interval(test.difference, test.interval), flips, test.verdict)
        yield (split.run, name, names, *numbers, *change)


def _seeds(comparison: Comparison) -> str:
    rows = []
    for row in comparison.seeds:
        mean, change = f"{row.spread.mean:.2f}", ("", "")
        if interval := row.spread.interval:
            mean += f" ({interval.low:.2f} to {interval.high:.2f})"
        if row.difference is not None and row.interval is not None:
            change = (format_interval(row.difference, row.interval), verdict(row.interval))
        group = (f"{row.run} {row.split}", row.metric, comparison.group_label(row.group))
        rows.append((*group, str(row.spread.count), mean, *change))
    header = ("over seeds", "metric", "group", "seeds", "mean (95 %)", "difference (95 %)", "")
    return table(rows, header) if rows else ""
