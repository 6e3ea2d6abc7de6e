"""Results of a run as text: metrics compared with chance, and the path of the report."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from albef.layout import BASELINES, HEADLINE, Layout
from albef.report import metric_names

HEADER = ("run", "metric", "value", *(name.replace("_", " ") for name in BASELINES))


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Return rows under a header with aligned columns; from the third column on, to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def summary(layout: Layout) -> str:
    """Return the main results of every evaluated run, and where to find the rest and the report."""
    result_rows = evaluated(layout)
    parts = [table(result_rows, HEADER), "all metrics: dvc metrics show"] if result_rows else []
    if layout.report().exists():
        parts.append(f"report: {layout.report()}")
    return "\n\n".join(parts) or "no results yet"


def evaluated(layout: Layout) -> list[tuple[str, ...]]:
    """Return the table rows of every evaluated run."""
    files = sorted((layout.root / "metrics").glob("*.json"))
    return [row for path in files for row in rows(path.stem, json.loads(path.read_text()))]


def rows(run: str, metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield rows of each split's headline metric, or of all metrics if no headline is set."""
    for section, values in metrics.items():
        if section in (*BASELINES, HEADLINE) or not isinstance(values, Mapping):
            continue
        headline = metrics.get(HEADLINE, {}).get(section)
        beside = [metrics.get(name, {}).get(section, {}) for name in BASELINES]
        for name, value in values.items():
            judged = headline in (None, name, metric_names.plain(name))
            if isinstance(value, int | float) and judged:
                label = name if section == "test" else f"{section} {name}"
                # A metric by ITC alone has the same chance level as after re-ranking.
                plain = metric_names.plain(name)
                chance, blank, text = beside[0].get(plain), beside[1].get(name), beside[2].get(name)
                yield run, label, *map(_format, (value, chance, blank, text))


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def show_progress() -> None:
    """Print the log lines of the flow and its stages to standard error."""
    log = logging.getLogger("albef")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
