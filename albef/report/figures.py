"""Charts as plain values, and the axes that ``figures.html.j2`` uses to draw them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 280, 180
"""Size of a chart in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 42, 270, 10, 144
"""Edges of the plot area inside the axes."""
COLOURS = 6
"""Number of series colours of the page, counted from 1."""
_MAX_POINTS = 300  # points per line; runs of more points are averaged
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart, from left to right."""

    label: str
    points: Sequence[Point]
    dashed: bool = False

    @property
    def css(self) -> str:
        """Return the CSS classes that colour it."""
        return f"c1{' dashed' if self.dashed else ''}"

    def averaged(self) -> Sequence[Point]:
        """Return at most 300 points, each the mean of a run of neighbours."""
        length = math.ceil(len(self.points) / _MAX_POINTS)
        if length <= 1:
            return self.points
        runs = [self.points[i : i + length] for i in range(0, len(self.points), length)]
        return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]


@dataclass(frozen=True)
class Histogram:
    """Shares of values between neighbouring edges, by series."""

    edges: Sequence[float]
    shares: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Chart:
    """A figure, lines over axes or a histogram; ``legend`` has (label, class) of each series.

    ``note`` is shown beside the title. ``main`` charts are shown first.
    """

    title: str
    note: str = ""
    legend: Sequence[tuple[str, str]] = ()
    x_label: str = ""
    lines: Sequence[Line] = ()
    histogram: Histogram | None = None
    main: bool = field(default=True, kw_only=True)

    @property
    def axes(self) -> "Axes":
        """Return axes that cover all points and zero."""
        return Axes([point for line in self.lines for point in line.averaged()])


class Axes:
    """Coordinates of values in a chart, and round values for the ticks."""

    def __init__(self, points: Sequence[Point]) -> None:
        xs, ys = [x for x, _ in points], [0.0, *(y for _, y in points)]
        self._whole = all(x == int(x) for x in xs)
        x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
        self._x = (x0, x1) if x0 < x1 else (x0 - 0.5, x1 + 0.5)
        pad = 0.06 * (y1 - y0) or 1.0
        self._y = (y0 - pad if y0 else y0, y1 + pad)

    def x(self, value: float) -> float:
        """Return the horizontal coordinate of a value."""
        return LEFT + (value - self._x[0]) / (self._x[1] - self._x[0]) * (RIGHT - LEFT)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of a value."""
        return BOTTOM - (value - self._y[0]) / (self._y[1] - self._y[0]) * (BOTTOM - TOP)

    def path(self, points: Sequence[Point]) -> str:
        """Return a line through points in SVG syntax."""
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    @property
    def x_ticks(self) -> list[float]:
        """Return round values along the horizontal axis."""
        ticks = _ticks(*self._x, 5)
        return [tick for tick in ticks if tick == int(tick) or not self._whole]

    @property
    def y_ticks(self) -> list[float]:
        """Return round values along the vertical axis."""
        return list(_ticks(*self._y, 4))


def _ticks(low: float, high: float, count: int) -> Iterator[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return (round(i * step, 12) for i in range(first, last + 1))
