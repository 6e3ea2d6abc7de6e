"""Figures: where things are drawn."""

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from albef.report.figures import Chart, Histogram, Line
from albef.report.page import environment

figures: Any = environment().get_template("figures.html.j2").module


def drawn(*points: tuple[float, float]) -> Any:
    return ET.fromstring(figures.over_axes(Chart("a", "", (), "step", [Line("a", points)])))


def test_a_line_goes_from_the_first_point_to_the_last_in_short_numbers() -> None:
    text = drawn((0, 0), (10, 5), (20, 10)).find("polyline").get("points")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in text.split())
    assert x0 < x1 < x2
    assert y0 > y1 > y2, "up is less"
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert not re.search(r"\d\.\d\d", text)


def test_flat_and_single_curves_have_axes() -> None:
    for points in ([(5, 1)], [(0, -3), (1, -2)], [(0, 1e-9)], [(0, 0)]):
        svg = drawn(*points)
        assert b"nan" not in ET.tostring(svg)
        assert list(svg.iter("line"))


def test_a_long_curve_is_averaged() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thin = Line("a", points).averaged()
    assert len(thin) <= 300
    assert all(abs(y - 0.5) < 0.1 for _, y in thin)
    assert Line("a", points[:300]).averaged() == points[:300]


def test_bars_and_histograms_fill_their_share() -> None:
    bar = ET.fromstring(figures.bar(25, 100, "b", marks={"itc": 50, "random": None}))
    assert [rect.get("width") for rect in bar.iter("rect")] == ["100%", "25%"]
    assert [line.get("x1") for line in bar.iter("line")] == ["50%"]
    assert ET.fromstring(figures.bar(0, 0, "empty")) is not None
    shares = {"train": [0.25, 0.0, 0.5], "evaluation": [0.0, 1.0, 0.0]}
    svg = figures.histogram(Chart("Words", histogram=Histogram([0, 1, 2, 30], shares)))
    heights = [float(rect.get("height", "")) for rect in ET.fromstring(svg).iter("rect")]
    assert heights == [heights[0], 0, 2 * heights[0], 0, 4 * heights[0], 0]
    assert "train: 50 % from 2 to 30" in svg
