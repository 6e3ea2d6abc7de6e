"""Training curves, read from dvclive and drawn."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from albef.report import metric_names
from albef.report.figures import Chart, Line, Point
from albef.report.wording import format_metric, format_number

Curve = tuple[Point, ...]
"""(step, value) points."""


def read(folder: Path) -> dict[str, Curve]:
    """Return the finite points of the curves in a training folder, by name."""
    base, curves = folder / "plots" / "metrics", {}
    for path in sorted(base.rglob("*.tsv")):
        _, *rows = path.read_text().splitlines()
        cells = (row.split("\t") for row in rows)
        points = ((float(row[0]), float(row[-1])) for row in cells)
        if finite := tuple(point for point in points if all(map(math.isfinite, point))):
            curves[path.relative_to(base).with_suffix("").as_posix()] = finite
    return curves


def draw_training(curves: Mapping[str, Curve]) -> Iterator[Chart]:
    """Yield each loss by step, or the only loss, and all other values logged by step."""
    logged = [name for name in curves if not name.startswith("val/")]
    losses = sorted(name for name in logged if name.startswith("train/"))
    if len(losses) > 2:  # the sum repeats what its parts show
        losses.remove("train/loss")
    rest = [name for name in logged if not name.startswith("train/")]
    for name in [*losses, *rest]:
        points = curves[name]
        title = metric_names.label(name.removeprefix("train/"))
        note = f"last {format_number(points[-1][1])}"
        if name == "lr":
            note = f"maximum {format_number(max(value for _, value in points))}"
        yield Chart(title, note, (), "step", [Line(name, points)], main=name in losses)


def draw_validation(curves: Mapping[str, Curve]) -> Iterator[Chart]:
    """Yield each validation metric by epoch; a different metric of ITC alone is dashed."""
    val = {n.removeprefix("val/"): c for n, c in curves.items() if n.startswith("val/")}
    for name in sorted({metric_names.plain(name) for name in val}, key=metric_names.order):
        own = {n: val[n] for n in (name, f"itc_{name}") if n in val}
        if own.get(f"itc_{name}") == own.get(name):
            own = {name: val[name]}  # without re-ranking, both are the same
        lines = [
            Line(label, [(i, y) for i, (_, y) in enumerate(points, 1)], dashed=label != name)
            for label, points in own.items()
        ]
        note = f"last {format_metric(lines[0].points[-1][1])}"
        names = ("re-ranked by ITM", "ITC alone") if len(lines) > 1 else ()
        legend = [(label, line.css) for label, line in zip(names, lines, strict=False)]
        title, is_main = metric_names.label(name), metric_names.is_main(name)
        yield Chart(title, note, legend, "epoch", lines, main=is_main)
