"""Figures: where things are drawn, and that nothing put in becomes markup."""

import re
from xml.etree import ElementTree as ET

import pytest
from markupsafe import Markup

from albef.report import figures
from albef.report.figures import Dot, Line, Mark


def parsed(svg: Markup) -> ET.Element:
    return ET.fromstring(svg)


def test_a_line_goes_from_the_first_point_to_the_last() -> None:
    svg = figures.lines([Line("a", [(0, 0), (10, 5), (20, 10)])], x_label="step", name="a by step")
    points = parsed(svg).find("polyline").get("points").split()  # type: ignore[union-attr]
    places = [tuple(map(float, point.split(","))) for point in points]
    xs, ys = zip(*places, strict=True)
    assert xs[0] < xs[1] < xs[2]
    assert ys[0] > ys[1] > ys[2], "up is less"
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_axes_hold_the_zero() -> None:
    svg = figures.lines([Line("a", [(0, 90), (1, 95)])], x_label="step", name="a")
    ticks = [text.text for text in parsed(svg).iter("text") if text.get("class") == "tick end"]
    assert ticks[0] == "0"


@pytest.mark.parametrize("points", [[(5, 1)], [(0, 0), (1, 0)], [(0, -3), (1, -2)], [(0, 1e-9)]])
def test_flat_and_single_curves_have_axes(points: list[tuple[float, float]]) -> None:
    svg = figures.lines([Line("a", points)], x_label="step", name="a")
    assert "nan" not in svg
    assert list(parsed(svg).iter("line"))


def test_a_long_curve_is_averaged() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thin = figures.averaged(points)
    assert len(thin) <= 300
    assert all(abs(y - 0.5) < 0.1 for _, y in thin)
    assert figures.averaged(points[:300]) == points[:300]


def test_a_logarithmic_axis_spaces_powers_evenly() -> None:
    dots = [Dot(x, 1.0, "", "") for x in (1e-5, 1e-4, 1e-3)]
    svg = figures.scatter(dots, log_x=True, x_label="lr", name="lr")
    xs = [float(c.get("cx", "")) for c in parsed(svg).iter("circle")]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_bars_and_stacks_fill_their_share() -> None:
    bar = parsed(figures.bar(25, 100, [Mark(50, "tick", "itc")], name="b"))
    assert [rect.get("width") for rect in bar.iter("rect")] == ["100%", "25%"]
    assert next(bar.iter("line")).get("x1") == "50%"
    stack = parsed(figures.stack([(1, "both", "x"), (0, "gain", "y"), (3, "none", "z")], name="s"))
    assert [rect.get("width") for rect in stack.iter("rect")] == ["25%", "75%"]
    assert parsed(figures.bar(0, 0, (), name="empty")) is not None
    assert not list(parsed(figures.stack([(0, "both", "x")], name="s")).iter("rect"))


def test_nothing_put_in_becomes_markup() -> None:
    bad = '"><script>x</script>'
    for svg in (
        figures.lines([Line(bad, [(0, 1), (1, 2)])], x_label=bad, name=bad),
        figures.scatter([Dot(1, 1, bad, bad)], log_x=False, x_label=bad, name=bad),
        figures.bar(1, 2, [Mark(1, "ring", bad)], name=bad),
        figures.stack([(1, bad, bad)], name=bad),
    ):
        assert "<script" not in svg
        parsed(svg)  # well-formed


def test_coordinates_are_short() -> None:
    svg = figures.lines([Line("a", [(i / 7, i / 3) for i in range(9)])], x_label="s", name="n")
    assert not re.search(r"\d\.\d\d", str(parsed(svg).find("polyline").get("points")))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0003, "3e-4"), (8.16e-9, "8.16e-9"), (12.345, "12.3"), (1234567, "1,234,567")],
)
def test_numbers_are_for_readers(value: float, shown: str) -> None:
    assert figures.show(value) == shown
