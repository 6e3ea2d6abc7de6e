"""Results of a run as text: metrics compared with chance, and the path of the report."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from albef.layout import BASELINES, HEADLINE, Layout
from albef.report import metric_names
from flows import graph, values

HEADER = ("run", "metric", "value", *(name.replace("_", " ") for name in BASELINES))
STALE = "*"
"""Mark of a number that the current values, data or code would not give."""


class StaleResultsError(ValueError):
    """Error for results of stages that must run again."""

    exit_code = 1


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Return rows under a header with aligned columns; from the third column on, to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def summary(layout: Layout, nodes: Mapping[str, graph.Node]) -> str:
    """Return the main results of every evaluated run, and where to find the rest and the report."""
    reasons = stale_results(layout, nodes)
    parts = [table(result_rows, HEADER)] if (result_rows := evaluated(layout, reasons)) else []
    if reasons:
        lines = [f"{name}: {reason}" for name, reason in reasons.items()]
        parts.append("\n".join([f"{STALE} stale; `albef run` brings them up to date:", *lines]))
    if result_rows:
        parts.append("all metrics: dvc metrics show")
    if layout.report().exists():
        parts.append(f"report: {layout.report()}" + f" {STALE}" * ("report" in reasons))
    return "\n\n".join(parts) or "no results yet"


def stale_results(layout: Layout, nodes: Mapping[str, graph.Node]) -> dict[str, str]:
    """Return the stages whose stored results are stale, with the reason for each."""
    stages = [f"evaluate@{path.stem}" for path in _metrics_files(layout)]
    stages += ["report"] if layout.report().exists() else []
    reasons = graph.outdated(nodes) | {
        name: "no such stage" for name in stages if name not in nodes
    }
    return {name: reasons[name] for name in stages if name in reasons}


def check_fresh() -> None:
    """Raise StaleResultsError if a stored result is stale."""
    if reasons := stale_results(values.layout(), graph.read()):
        stale = "; ".join(f"{name} ({reason})" for name, reason in reasons.items())
        raise StaleResultsError(f"stale results: {stale}")


def evaluated(layout: Layout, stale: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Return the table rows of every evaluated run, with the numbers of ``stale`` stages marked."""
    table_rows = []
    for path in _metrics_files(layout):
        mark = STALE if f"evaluate@{path.stem}" in stale else ""
        for run, metric, *cells in rows(path.stem, json.loads(path.read_text())):
            table_rows.append((run, metric, *(cell and cell + mark for cell in cells)))
    return table_rows


def _metrics_files(layout: Layout) -> list[Path]:
    return sorted((layout.root / "metrics").glob("*.json"))


def rows(run: str, metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield rows of each split's headline metric, or of all metrics if no headline is set."""
    for section, scores in metrics.items():
        if section in (*BASELINES, HEADLINE) or not isinstance(scores, Mapping):
            continue
        headline = metrics.get(HEADLINE, {}).get(section)
        beside = [metrics.get(name, {}).get(section, {}) for name in BASELINES]
        for name, value in scores.items():
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
