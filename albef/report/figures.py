"""Figures as inline SVG, coloured by the classes of the page's style, so they follow its theme.

Markup is made by ``Markup.format``, which escapes whatever is put in. Numbers are rounded, so
equal values give equal bytes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

_WIDTH, _HEIGHT = 280, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 36
_MOST_POINTS = 300  # of a line; more are averaged in runs
_MARKED = 24  # a line of at most so many points shows each
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        label: its name in the legend.
        points: (x, y), x ascending.
        colour: 1 to 6, of the page's series colours; 0 is a muted one.
        dashed: whether it is drawn so.
    """

    label: str
    points: Sequence[Point]
    colour: int = 1
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: where, what it is, and the classes of its look."""

    x: float
    y: float
    label: str
    look: str


@dataclass(frozen=True)
class Mark:
    """A value on a bar: ``tick`` or ``ring``, with the class that colours it."""

    value: float
    shape: str
    look: str


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        title, aside: its title, and what stands beside it.
        legend: (label, class) of what is drawn.
        svg: it.
        main: whether it belongs to those that are looked at first.
    """

    title: str
    aside: str
    legend: tuple[tuple[str, str], ...]
    svg: Markup
    main: bool = True


def lines(series: Sequence[Line], *, x_label: str, name: str) -> Markup:
    """A chart of lines over linear axes that hold the zero; the legend is the page's part.

    Args:
        series: at least one line with at least one point.
        x_label: what x counts.
        name: said to those who do not see it.
    """
    thin = [(line, averaged(line.points)) for line in series]
    xs = [x for _, points in thin for x, _ in points]
    ys = [y for _, points in thin for _, y in points]
    frame = _Frame(min(xs), max(xs), min(*ys, 0), max(ys), log_x=False)
    body: list[Markup] = []
    for line, points in thin:
        look = f"c{line.colour}" + (" dashed" if line.dashed else "")
        placed = [(frame.x(x), frame.y(y)) for x, y in points]
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in placed)
        body.append(Markup('<polyline class="line {}" points="{}"/>').format(look, path))
        if len(points) <= _MARKED:
            body += [
                Markup(
                    '<circle class="dot {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>'
                ).format(f"c{line.colour}", _n(px), _n(py), f"{line.label}: {show(y)} at {show(x)}")
                for (px, py), (x, y) in zip(placed, points, strict=True)
            ]
    return frame.svg(body, x_label, name, whole=all(x == int(x) for x in xs))


def histogram(edges: Sequence[float], counts: Sequence[int], *, x_label: str, name: str) -> Markup:
    """A chart of how many values lie between each two edges.

    Args:
        edges: rising, one more than counts.
        counts: of each bin.
        x_label: what the values are.
        name: said to those who do not see it.
    """
    frame = _Frame(edges[0], edges[-1], 0, max(counts), log_x=False)
    body = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        left, right, top = frame.x(low), frame.x(high), frame.y(count)
        body.append(
            Markup(
                '<rect class="bin" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
            ).format(
                _n(left + 0.5), _n(top), _n(max(right - left - 1, 1)), _n(frame.y(0) - top),
                f"{count:,} from {show(low)} to {show(high)}",
            )
        )  # fmt: skip
    return frame.svg(body, x_label, name, whole=False)


def scatter(
    dots: Sequence[Dot], *, log_x: bool, x_label: str, name: str, line: Sequence[Point] = ()
) -> Markup:
    """A chart of labelled dots; ``log_x`` for a logarithmic horizontal axis.

    ``line`` is drawn under them.
    """
    xs = [dot.x for dot in dots] + [x for x, _ in line]
    ys = [dot.y for dot in dots] + [y for _, y in line]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys), log_x=log_x)
    body = [
        Markup(
            '<circle class="trial {}" cx="{}" cy="{}" r="5.5"><title>{}</title></circle>'
        ).format(dot.look, _n(frame.x(dot.x)), _n(frame.y(dot.y)), dot.label)
        for dot in dots
    ]
    if line:
        path = " ".join(f"{_n(frame.x(x))},{_n(frame.y(y))}" for x, y in line)
        body.insert(0, Markup('<polyline class="line c0" points="{}"/>').format(path))
    return frame.svg(body, x_label, name, whole=bool(line))


def bar(value: float, most: float, marks: Sequence[Mark], *, name: str, look: str = "") -> Markup:
    """A bar from 0 to ``most`` over the whole width, with marks; it scales without its strokes."""

    def at(part: float) -> str:
        return f"{_n(100 * min(max(part / most, 0), 1)) if most > 0 else 0}%"

    body = [
        Markup('<rect class="track" width="100%" height="8" y="5" rx="4"/>'),
        Markup('<rect class="fill {}" width="{}" height="8" y="5" rx="4"/>').format(
            look, at(value)
        ),
    ]
    for mark in marks:
        if mark.shape == "ring":
            shape = '<circle class="{}" cx="{}" cy="9" r="4"><title>{}</title></circle>'
            body.append(Markup(shape).format(mark.look, at(mark.value), show(mark.value)))
        else:
            shape = '<line class="{}" x1="{}" x2="{}" y1="1" y2="17"><title>{}</title></line>'
            x = at(mark.value)
            body.append(Markup(shape).format(mark.look, x, x, show(mark.value)))
    return Markup(
        '<svg class="bar" width="100%" height="18" role="img" aria-label="{}">{}</svg>'
    ).format(name, Markup().join(body))


def stack(parts: Sequence[tuple[float, str, str]], *, name: str) -> Markup:
    """A bar cut into parts of (size, class, label), labelled where a label has room."""
    total = sum(size for size, _, _ in parts)
    body: list[Markup] = []
    at = 0.0
    for size, look, label in parts:
        share = 100 * size / total if total else 0.0
        if share:
            body.append(
                Markup(
                    '<rect class="{}" x="{}%" width="{}%" height="24"><title>{}</title></rect>'
                ).format(look, _n(at), _n(share), label)
            )
        if share >= 10:
            body.append(
                Markup('<text class="on {}" x="{}%" y="16.5">{}</text>').format(
                    look, _n(at + share / 2), f"{share:.0f} %"
                )
            )
        at += share
    return Markup(
        '<svg class="stack" width="100%" height="24" role="img" aria-label="{}">{}</svg>'
    ).format(name, Markup().join(body))


def interval(low: float, value: float, high: float, most: float, *, name: str) -> Markup:
    """A value and its interval on an axis from ``-most`` to ``most``, with a line at zero."""

    def at(number: float) -> str:
        return f"{_n(50 + 50 * min(max(number / most, -1), 1)) if most > 0 else 50}%"

    look = "gain" if low > 0 else "loss" if high < 0 else "none"
    return Markup(
        '<svg class="interval" width="100%" height="18" role="img" aria-label="{}">'
        '<line class="zero" x1="50%" x2="50%" y1="0" y2="18"/>'
        '<line class="reach {}" x1="{}" x2="{}" y1="9" y2="9"/>'
        '<circle class="{}" cx="{}" cy="9" r="4.5"/></svg>'
    ).format(name, look, at(low), at(high), look, at(value))


def averaged(points: Sequence[Point]) -> list[Point]:
    """At most :data:`_MOST_POINTS` points, each the mean of a run of neighbours."""
    length = math.ceil(len(points) / _MOST_POINTS)
    if length <= 1:
        return list(points)
    parts = [points[i : i + length] for i in range(0, len(points), length)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def show(value: float) -> str:
    """A number for a reader: three digits, small ones with an exponent."""
    if value and abs(value) < 0.001:
        digits, _, exponent = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


class _Frame:
    """Axes: maps values to places and draws the grid."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, *, log_x: bool) -> None:
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

    def svg(self, body: list[Markup], x_label: str, name: str, *, whole: bool) -> Markup:
        """The chart around ``body``."""
        grid: list[Markup] = []
        for tick in _ticks(*self._y, 4):
            y = _n(self.y(tick))
            grid.append(
                Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    _LEFT, _WIDTH - _RIGHT, y, y
                )
            )
            grid.append(
                Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
                    _LEFT - 6, _n(self.y(tick) + 3.5), show(tick)
                )
            )
        ticks = _log_ticks(*self._x) if self._log else _ticks(*self._x, 5)
        for tick in ticks:
            if whole and tick != int(tick):
                continue
            grid.append(
                Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(
                    _n(self.x(tick)), _HEIGHT - _BOTTOM + 15, show(tick)
                )
            )
        grid.append(
            Markup('<text class="axis mid" x="{}" y="{}">{}</text>').format(
                (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label
            )
        )
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        ).format(_WIDTH, _HEIGHT, name, Markup().join(grid + body))


def _ticks(low: float, high: float, about: int) -> Iterator[float]:
    """Round numbers between two bounds, some ``about`` of them."""
    rough = (high - low) / about
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


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
