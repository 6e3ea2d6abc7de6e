"""Figures: where things are drawn, and that nothing put in becomes markup."""

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markupsafe import Markup

from albef.report import figures
from albef.report.figures import Dot, Line


def parsed(svg: Markup) -> ET.Element:
    return ET.fromstring(svg)


def drawn(*points: tuple[float, float], label: str = "a") -> Any:
    return parsed(figures.lines([Line(label, points)], x_label="step", name="a by step"))


def test_a_line_goes_from_the_first_point_to_the_last_in_short_numbers() -> None:
    text = drawn((0, 0), (10, 5), (20, 10)).find("polyline").get("points")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in text.split())
    assert x0 < x1 < x2
    assert y0 > y1 > y2, "up is less"
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert not re.search(r"\d\.\d\d", text)


def test_axes_hold_the_zero() -> None:
    svg = drawn((0, 90), (1, 95))
    assert next(text.text for text in svg.iter("text") if text.get("class") == "tick end") == "0"


@pytest.mark.parametrize("points", [[(5, 1)], [(0, 0), (1, 0)], [(0, -3), (1, -2)], [(0, 1e-9)]])
def test_flat_and_single_curves_have_axes(points: list[tuple[float, float]]) -> None:
    svg = drawn(*points)
    assert b"nan" not in ET.tostring(svg)
    assert list(svg.iter("line"))


def test_values_that_are_equal_but_for_rounding_are_drawn_in_the_middle() -> None:
    dots = [Dot(1.0, 84.33333333333333, "a", ""), Dot(2.0, 84.33333333333334, "b", "")]
    svg = parsed(figures.scatter(dots, log_x=False, x_label="lr", name="n"))
    places = [float(text.get("y", "")) for text in svg.iter("text")]
    assert max(places) <= 180, "a tick far off would stand somewhere else on the page"


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


def test_bars_stacks_and_histograms_fill_their_share() -> None:
    bar = parsed(figures.percent_bar("b", 25, itc=50, random=None))
    assert [rect.get("width") for rect in bar.iter("rect")] == ["100%", "25%"]
    assert [line.get("x1") for line in bar.iter("line")] == ["50%"]
    stack = parsed(figures.stack([(1, "both", "x"), (0, "gain", "y"), (3, "none", "z")], name="s"))
    assert [rect.get("width") for rect in stack.iter("rect")] == ["25%", "75%"]
    assert parsed(figures.bar(0, 0, name="empty")) is not None
    assert not list(parsed(figures.stack([(0, "both", "x")], name="s")).iter("rect"))
    svg = figures.histogram([0, 1, 2, 3], [3, 0, 6], x_label="words", name="Words")
    heights = [float(rect.get("height", "")) for rect in parsed(svg).iter("rect")]
    assert heights[1:] == [0, 2 * heights[0]]
    assert "6 from 2 to 3" in svg


def test_nothing_put_in_becomes_markup() -> None:
    bad = '"><script>x</script>'
    for svg in (
        figures.lines([Line(bad, [(0, 1), (1, 2)])], x_label=bad, name=bad),
        figures.scatter([Dot(1, 1, bad, bad)], log_x=False, x_label=bad, name=bad),
        figures.histogram([0, 1], [3], x_label=bad, name=bad),
        figures.bar(1, 2, look=bad, name=bad),
        figures.stack([(1, bad, bad)], name=bad),
    ):
        assert "<script" not in svg
        parsed(svg)  # well-formed
