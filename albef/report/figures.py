"""Figures as inline SVG, coloured by the classes of the page's style, so they follow its theme.

Whatever is put in is escaped. Numbers are rounded, so equal values give equal bytes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from albef.report.wording import format_metric, format_number

_WIDTH, _HEIGHT = 280, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 36
_MAX_POINTS = 300  # of a line; more are averaged in runs
_MARKED = 24  # a line of at most so many points shows each
COLOURS = 6
"""Series colours of the page, from 1."""
_MARKS = {"chance": "tick", "random": "ring", "text": "ring", "itc": "tick"}
"""Shapes of the marks on a bar, by the class that colours them."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart, from the left to the right."""

    label: str
    points: Sequence[Point]
    colour: int = 1
    """Of the page's series, from 1; 0 is a muted one."""
    dashed: bool = False

    @property
    def look(self) -> str:
        """The classes that colour it."""
        return f"c{self.colour}{' dashed' if self.dashed else ''}"


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: where, what it is, and the classes of its look."""

    x: float
    y: float
    label: str
    look: str


@dataclass(frozen=True)
class Chart:
    """A figure with its title, what stands beside that, and (label, class) of what is drawn."""

    title: str
    note: str
    legend: tuple[tuple[str, str], ...]
    svg: Markup
    main: bool = True
    """Whether it belongs to those that are looked at first."""


def lines(series: Sequence[Line], *, x_label: str, name: str) -> Markup:
    """A chart of lines with points over linear axes that hold the zero; the legend is the page's
    part.

    ``name`` is said to those who do not see it, here as in the others.
    """
    thin = [(line, averaged(line.points)) for line in series]
    xs = [x for _, points in thin for x, _ in points]
    ys = [y for _, points in thin for _, y in points]
    frame = _Frame(min(xs), max(xs), min(*ys, 0), max(ys))
    body: list[Markup] = []
    for line, points in thin:
        body.append(frame.path(points, line.look))
        if len(points) <= _MARKED:
            for x, y in points:
                label = f"{line.label}: {format_number(y)} at {format_number(x)}"
                body.append(frame.circle(x, y, 3, f"dot c{line.colour}", label))
    return frame.svg(body, x_label, name, whole_ticks=all(x == int(x) for x in xs))


def histogram(edges: Sequence[float], counts: Sequence[int], *, x_label: str, name: str) -> Markup:
    """A chart of how many values lie between each two edges; see :func:`lines`."""
    frame = _Frame(edges[0], edges[-1], 0, max(counts))
    body = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        left, right, top = frame.x(low), frame.x(high), frame.y(count)
        label = _tag("title", f"{count:,} from {format_number(low)} to {format_number(high)}")
        size = {"width": max(right - left - 1, 1), "height": frame.y(0) - top}
        body.append(_tag("rect", label, class_="bin", x=left + 0.5, y=top, **size))
    return frame.svg(body, x_label, name, whole_ticks=False)


def scatter(
    dots: Sequence[Dot], *, log_x: bool, x_label: str, name: str, line: Sequence[Point] = ()
) -> Markup:
    """A chart of labelled dots, over ``line``; ``log_x`` for a logarithmic horizontal axis."""
    xs = [dot.x for dot in dots] + [x for x, _ in line]
    ys = [dot.y for dot in dots] + [y for _, y in line]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys), log_x=log_x)
    body = [frame.path(line, "c0")] if line else []
    body += [frame.circle(dot.x, dot.y, 5.5, f"trial {dot.look}", dot.label) for dot in dots]
    return frame.svg(body, x_label, name, whole_ticks=bool(line))


def bar(
    value: float,
    maximum: float,
    *,
    name: str,
    look: str = "",
    marks: Mapping[str, float] | None = None,
) -> Markup:
    """A bar from 0 to ``maximum`` over the whole width; it scales without its strokes.

    ``look`` is the class that colours it, "" for the page's accent; ``marks`` are values by the
    class of their mark, of :data:`_MARKS`.
    """

    def at(number: float) -> str:
        return f"{_n(100 * min(max(number / maximum, 0), 1)) if maximum > 0 else 0}%"

    body = [
        _tag("rect", class_="track", width="100%", height=8, y=5, rx=4),
        _tag("rect", class_=f"fill {look}", width=at(value), height=8, y=5, rx=4),
    ]
    for mark, number in (marks or {}).items():
        label = _tag("title", format_number(number))
        if _MARKS[mark] == "ring":
            body.append(_tag("circle", label, class_=mark, cx=at(number), cy=9, r=4))
        else:
            body.append(_tag("line", label, class_=mark, x1=at(number), x2=at(number), y1=1, y2=17))
    return _wide("bar", 18, name, body)


def percent_bar(name: str, value: float, **marks: float | None) -> Markup:
    """A metric from 0 to 100, with those of its baselines that are known marked."""
    present = {mark: number for mark, number in marks.items() if number is not None}
    return bar(value, 100.0, name=f"{name} {format_metric(value)}", marks=present)


def stack(parts: Sequence[tuple[float, str, str]], *, name: str) -> Markup:
    """A bar cut into parts of (size, class, label), labelled where a label has room."""
    total = sum(size for size, _, _ in parts)
    body: list[Markup] = []
    at = 0.0
    for size, look, label in parts:
        share = 100 * size / total if total else 0.0
        if share:
            position = {"x": f"{_n(at)}%", "width": f"{_n(share)}%"}
            body.append(_tag("rect", _tag("title", label), class_=look, **position, height=24))
        if share >= 10:
            middle = f"{_n(at + share / 2)}%"
            body.append(_tag("text", f"{share:.0f} %", class_=f"on {look}", x=middle, y=16.5))
        at += share
    return _wide("stack", 24, name, body)


def interval(low: float, value: float, high: float, maximum: float, *, name: str) -> Markup:
    """A value and its interval on an axis from ``-maximum`` to ``maximum``, with a line at zero."""

    def at(number: float) -> str:
        return f"{_n(50 + 50 * min(max(number / maximum, -1), 1)) if maximum > 0 else 50}%"

    look = "gain" if low > 0 else "loss" if high < 0 else "none"
    body = [
        _tag("line", class_="zero", x1="50%", x2="50%", y1=0, y2=18),
        _tag("line", class_=f"reach {look}", x1=at(low), x2=at(high), y1=9, y2=9),
        _tag("circle", class_=look, cx=at(value), cy=9, r=4.5),
    ]
    return _wide("interval", 18, name, body)


def _wide(look: str, height: int, name: str, body: Sequence[Markup]) -> Markup:
    """A figure of its own height that takes the width of its place."""
    size = {"width": "100%", "height": height}
    return _tag("svg", *body, class_=look, **size, role="img", aria_label=name)


def _tag(element: str, *children: str, **attributes: object) -> Markup:
    """An element; numbers are rounded, texts are escaped."""
    rendered = Markup().join(
        Markup(' {}="{}"').format(
            name.rstrip("_").replace("_", "-"),
            _n(value) if isinstance(value, int | float) else value,
        )
        for name, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(element, rendered, Markup().join(children), element)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def averaged(points: Sequence[Point]) -> list[Point]:
    """At most :data:`_MOST_POINTS` points, each the mean of a run of neighbours."""
    length = math.ceil(len(points) / _MAX_POINTS)
    if length <= 1:
        return list(points)
    runs = [points[i : i + length] for i in range(0, len(points), length)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


class _Frame:
    """Axes: maps values to places and draws the grid."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, *, log_x: bool = False) -> None:
        self._log = log_x
        if log_x:
            x0, x1 = math.log10(x0), math.log10(x1)
            pad = max(0.08 * (x1 - x0), 0.05)
            x0, x1 = x0 - pad, x1 + pad
        elif x0 == x1:
            x0, x1 = x0 - 0.5, x1 + 0.5
        self._x = (x0, x1)
        if y1 - y0 <= 1e-9 * max(abs(y0), abs(y1)):  # rounding apart they are equal
            y0, y1 = y0 - (abs(y0) * 0.1 or 1), y1 + (abs(y1) * 0.1 or 1)
        pad = 0.06 * (y1 - y0)
        self._y = (y0 - pad if y0 else y0, y1 + pad)

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        value = math.log10(value) if self._log else value
        return _LEFT + (value - self._x[0]) / (self._x[1] - self._x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Vertical place of a value."""
        share = (value - self._y[0]) / (self._y[1] - self._y[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[Point], look: str) -> Markup:
        """A line through points."""
        path = " ".join(f"{_n(self.x(x))},{_n(self.y(y))}" for x, y in points)
        return _tag("polyline", class_=f"line {look}", points=path)

    def circle(self, x: float, y: float, radius: float, look: str, label: str) -> Markup:
        """A labelled point."""
        position = {"cx": self.x(x), "cy": self.y(y), "r": radius}
        return _tag("circle", _tag("title", label), class_=look, **position)

    def svg(self, body: Sequence[Markup], x_label: str, name: str, *, whole_ticks: bool) -> Markup:
        """The chart around ``body``; ``whole_ticks`` where only whole numbers are ticks of x."""
        grid: list[Markup] = []
        for tick in _ticks(*self._y, 4):
            y = self.y(tick)
            grid.append(_tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y))
            grid.append(
                _tag("text", format_number(tick), class_="tick end", x=_LEFT - 6, y=y + 3.5)
            )
        for tick in _log_ticks(*self._x) if self._log else _ticks(*self._x, 5):
            if not whole_ticks or tick == int(tick):
                position = {"x": self.x(tick), "y": _HEIGHT - _BOTTOM + 15}
                grid.append(_tag("text", format_number(tick), class_="tick mid", **position))
        middle = {"x": (_LEFT + _WIDTH - _RIGHT) / 2, "y": _HEIGHT - 5}
        grid.append(_tag("text", x_label, class_="axis mid", **middle))
        box = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}"}
        return _tag("svg", *grid, *body, class_="chart", **box, role="img", aria_label=name)


def _ticks(low: float, high: float, count: int) -> Iterator[float]:
    """Round numbers between two bounds, some ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return (round(i * step, 12) for i in range(first, last + 1))


def _log_ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers between two powers of ten."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    numbers = (n * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for n in steps)
    return (number for number in numbers if low <= math.log10(number) <= high)
