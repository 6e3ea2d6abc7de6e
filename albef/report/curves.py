"""Training curves: read from dvclive, drawn, and compared with a reference file.

A reference file is CSV with the columns ``training,curve,step,value``. A row has the mean of a
curve over the window of steps after the previous row, up to its own step.
"""

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from albef.report import metric_names
from albef.report.figures import Chart, Line, Point
from albef.report.wording import format_metric, format_number

Curve = tuple[Point, ...]
Curves = Mapping[str, Mapping[str, Curve]]
"""(step, value) points by training and name of the curve."""
_COLUMNS = ["training", "curve", "step", "value"]
_ROWS = 40  # rows per curve in a reference file


class CurveError(ValueError):
    """A reference file is missing or invalid."""


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


def write_reference(curves: Curves) -> str:
    """Return the content of a reference file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for training, named in curves.items():
        for name, points in named.items():
            length = math.ceil(len(points) / _ROWS)
            for start in range(0, len(points), length):
                window = points[start : start + length]
                mean = sum(value for _, value in window) / len(window)
                rows.writerow([training, name, f"{window[-1][0]:g}", f"{mean:.5g}"])
    return text.getvalue()


def read_reference(path: Path) -> dict[str, dict[str, Curve]]:
    """Return the curves in a reference file.

    Raises:
        CurveError: the file is missing or is not a reference file.
    """
    try:
        rows = pd.read_csv(path, dtype=dict(zip(_COLUMNS, (str, str, float, float), strict=True)))
        if list(rows) != _COLUMNS:
            raise ValueError(f"the first line must be {','.join(_COLUMNS)}")
        if rows.empty or not np.isfinite(rows[["step", "value"]].to_numpy()).all():
            raise ValueError("a step or value is missing, NaN or Inf, or there is no row")
        curves: dict[str, dict[str, Curve]] = {}
        for (training, name), curve in rows.groupby(["training", "curve"], sort=False):
            if not curve["step"].is_monotonic_increasing or not curve["step"].is_unique:
                raise ValueError(f"the steps of {training} {name} must ascend")
            points = zip(curve["step"].tolist(), curve["value"].tolist(), strict=True)
            curves.setdefault(str(training), {})[str(name)] = tuple(points)
    except FileNotFoundError:
        raise CurveError(f"{path} does not exist; write it with `--save-curve {path}`") from None
    except (ValueError, OSError) as error:
        raise CurveError(
            f"{path} is not a file of reference curves ({error}); `--save-curve FILE` writes one"
        ) from None
    return curves


@dataclass(frozen=True)
class Deviation:
    """Largest deviation of a curve from its reference, in the window that ends at ``step``.

    ``share`` is the deviation as a share of the reference's largest value.
    """

    training: str
    curve: str
    step: float
    reference: float
    value: float
    share: float


def deviations(reference: Curves, curves: Curves) -> list[Deviation]:
    """Return the largest deviation of every curve that both have, largest first."""
    largest = []
    for training, named in reference.items():
        for name, points in named.items():
            windows = list(_windows(points, curves.get(training, {}).get(name, ())))
            if not windows:
                continue
            step, expected, value = max(windows, key=lambda window: abs(window[2] - window[1]))
            height = max(abs(y) for _, y in points)
            distance = abs(value - expected)
            share = distance / height if height else float(distance > 0)
            largest.append(Deviation(training, name, step, expected, value, share))
    return sorted(largest, key=lambda deviation: -deviation.share)


def _windows(reference: Curve, curve: Curve) -> Iterator[tuple[float, float, float]]:
    """Yield (last step, value of the reference, mean of the curve) of windows with points."""
    steps = [step for step, _ in curve]
    start = 0
    for step, value in reference:
        end = bisect_right(steps, step)
        if end > start:
            yield step, value, sum(y for _, y in curve[start:end]) / (end - start)
        start = end
