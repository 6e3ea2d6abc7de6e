"""Curves of trainings: as dvclive keeps them, as one reference file, and how far two are apart.

A reference file is CSV with the columns ``training,curve,step,value``. A row holds the mean of a
curve over the steps after the row before it, up to its own; so a file may hold every step or a
few, and a curve is compared with it window by window.
"""

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from albef.report.figures import Point

Curve = tuple[Point, ...]
Curves = Mapping[str, Mapping[str, Curve]]
"""(step, value) points by training and name of the curve."""
_COLUMNS = ["training", "curve", "step", "value"]
_ROWS = 40  # of a curve in a reference file


class CurveError(ValueError):
    """A reference file that cannot be read; its text is the sentence to show."""


def read(folder: Path) -> dict[str, Curve]:
    """The curves of a training by name, as ``train/loss``, from its folder; finite points alone."""
    return dict(_read(folder / "plots" / "metrics"))


def _read(base: Path) -> Iterator[tuple[str, Curve]]:
    for path in sorted(base.rglob("*.tsv")):
        _, *rows = path.read_text().splitlines()
        cells = (row.split("\t") for row in rows)
        points = [(float(row[0]), float(row[-1])) for row in cells]
        kept = tuple(point for point in points if all(map(math.isfinite, point)))
        if kept:
            yield path.relative_to(base).with_suffix("").as_posix(), kept


def write_reference(curves: Curves) -> str:
    """The text of a reference file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for training, named in curves.items():
        for name, points in named.items():
            for step, value in _thinned(points):
                rows.writerow([training, name, f"{step:g}", f"{value:.5g}"])
    return text.getvalue()


def _thinned(points: Curve) -> Iterator[Point]:
    length = math.ceil(len(points) / _ROWS)
    for start in range(0, len(points), length):
        part = points[start : start + length]
        yield part[-1][0], sum(value for _, value in part) / len(part)


def read_reference(path: Path) -> dict[str, dict[str, Curve]]:
    """The curves in a reference file.

    Raises:
        CurveError: it is missing or not one.
    """
    found: dict[str, dict[str, list[Point]]] = {}
    try:
        header, *rows = csv.reader(path.read_text().splitlines())
        if header != _COLUMNS:
            raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
        for number, row in enumerate(rows, 2):
            try:
                training, name, step, value = row
                point = (float(step), float(value))
            except ValueError:
                raise ValueError(f"line {number} is no {','.join(_COLUMNS)}") from None
            if not all(map(math.isfinite, point)):
                raise ValueError(f"line {number} holds a number that is not finite")
            curve = found.setdefault(training, {}).setdefault(name, [])
            if curve and curve[-1][0] >= point[0]:
                raise ValueError(f"line {number} does not go on from the step before it")
            curve.append(point)
        if not found:
            raise ValueError("it holds no curve")
    except FileNotFoundError:
        raise CurveError(
            f"{path} does not exist; `--save-curve {path}` writes such a file"
        ) from None
    except (ValueError, OSError, csv.Error) as error:
        raise CurveError(
            f"{path} is no reference curve ({error}); `--save-curve FILE` writes one"
        ) from None
    return {t: {name: tuple(c) for name, c in named.items()} for t, named in found.items()}


@dataclass(frozen=True)
class Deviation:
    """Where a curve is farthest from its reference.

    Attributes:
        training, curve: which.
        step: the last one of the window.
        reference, value: means over the window.
        share: of the distance in the largest of the reference's values.
    """

    training: str
    curve: str
    step: float
    reference: float
    value: float
    share: float


def deviations(reference: Curves, curves: Curves) -> list[Deviation]:
    """The farthest point of every curve that both have, the farthest curve first.

    Curves that do not reach into each other's steps have no such point.
    """
    found = []
    for training, named in reference.items():
        for name, points in named.items():
            windows = list(_windows(points, curves.get(training, {}).get(name, ())))
            if not windows:
                continue
            step, told, value = max(windows, key=lambda window: abs(window[2] - window[1]))
            most = max(abs(y) for _, y in points)
            apart = abs(value - told)
            share = apart / most if most else float(apart > 0)
            found.append(Deviation(training, name, step, told, value, share))
    return sorted(found, key=lambda deviation: -deviation.share)


def _windows(reference: Curve, curve: Curve) -> Iterator[tuple[float, float, float]]:
    """(last step, the reference, the curve's mean) of each window that the curve has points in."""
    steps = [step for step, _ in curve]
    start = 0
    for step, value in reference:
        end = bisect_right(steps, step)
        if end > start:
            yield step, value, sum(y for _, y in curve[start:end]) / (end - start)
        start = end
