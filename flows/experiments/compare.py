"""``albef compare A B ...``: compare experiments or git revisions. No stage runs again."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from albef.layout import BEHAVIOUR
from albef.report.comparison import (
    Comparison,
    chance,
    interval_words,
    render,
    verdict,
)
from albef.report.wording import format_difference
from flows.experiments.gather import gather, write_curves
from flows.results import table

OUT = Path(".albef/compare")


def compare(
    revisions: Sequence[str],
    curve: Path | None = None,
    save_curve: Path | None = None,
    out: Path | None = None,
    examples: int = 6,
    *,
    stepwise: bool = False,
) -> int:
    """Print the comparison and write its page; return exit code 1 if something is missing.

    Raises:
        ValueError: a revision does not exist, or a file has no curves.
    """
    if save_curve:
        write_curves(revisions[0], save_curve)
        print(f"curves: {save_curve}")
    if save_curve and len(revisions) == 1 and not curve:
        return 0
    comparison, problems = gather(revisions, curve, examples, stepwise=stepwise)
    path = write(comparison, out)
    print(text(comparison))
    print(f"\npage: {path}")
    for note in comparison.notes:
        print(f"albef compare: {note}", file=sys.stderr)
    return int(bool(problems))


def write(comparison: Comparison, out: Path | None) -> Path:
    """Write the page of a comparison and return its path."""
    if out is None:
        names = [side.name for side in comparison.sides]
        names += [comparison.reference_name] if comparison.reference_name else []
        plain = (re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "workspace" for name in names)
        out = OUT / f"{'-vs-'.join(plain)[:200]}.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(comparison))
    return out


def text(comparison: Comparison) -> str:
    """Return the comparison as text for a terminal."""
    parts = [part(comparison) for part in (_values, _metrics, _seeds, _deviations)]
    notes = [f"note: {s.run} {s.name}: {note}" for s in comparison.splits for note in s.notes]
    return "\n\n".join(part for part in (*parts, "\n".join(notes)) if part)


def results(comparison: Comparison) -> str:
    """Return the metrics alone: over seeds, or those of each side if no seed is repeated."""
    return _seeds(comparison) or _metrics(comparison)


def _values(comparison: Comparison) -> str:
    if not comparison.values:
        return "values: none differs" if len(comparison.sides) > 1 else ""
    rows = [(key, *(value or "-" for value in values)) for key, values in comparison.values.items()]
    return table(rows, ("value", *(side.name for side in comparison.sides)))


def _metrics(comparison: Comparison) -> str:
    rows: list[tuple[str, ...]] = []
    for split in comparison.splits:
        tests = {(test.after, test.metric): test for test in split.paired}
        for metric in split.metrics:
            if metric not in split.judged and split.name != BEHAVIOUR:
                continue
            name = metric.name if split.name == "test" else f"{split.name} {metric.name}"
            for after, side in enumerate(comparison.sides[1:], 1):
                test = tests.get((after, metric.name))
                change = (format_difference(metric.difference(side.against, after)), "", "")
                if test is not None:
                    change = (
                        interval_words(test.difference, test.interval),
                        f"+{test.gained} −{test.lost}, p {chance(test.p)}",
                        test.verdict,
                    )
                names = f"{comparison.sides[side.against].name} -> {side.name}"
                values = [_number(metric.values[index]) for index in (side.against, after)]
                rows.append((split.run, name, names, *values, *change))
    header = ("run", "metric", "sides", "before", "after", "difference (95 %)", "flips", "")
    return table(rows, header) if rows else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seeds(comparison: Comparison) -> str:
    rows = []
    for row in comparison.seeds:
        interval = row.spread.interval
        change = ("", "")
        if row.difference is not None and row.interval is not None:
            change = (interval_words(row.difference, row.interval), verdict(row.interval))
        rows.append(
            (
                f"{row.run} {row.split}",
                row.metric,
                comparison.label(row.group),
                str(row.spread.count),
                f"{row.spread.mean:.2f}"
                + (f" ({interval.low:.2f} to {interval.high:.2f})" if interval else ""),
                *change,
            )
        )
    header = ("over seeds", "metric", "group", "seeds", "mean (95 %)", "difference (95 %)", "")
    return table(rows, header) if rows else ""


def _deviations(comparison: Comparison) -> str:
    if not comparison.deviations:
        return ""
    first, count = comparison.deviations[0], len(comparison.deviations)
    return (
        f"{count} curves in common with {comparison.reference_name}; the largest deviation is "
        f"{first.training} {first.curve}: {first.value - first.reference:+.4g} at step "
        f"{first.step:g}, {100 * first.share:.1f} % of the reference's largest value"
    )
