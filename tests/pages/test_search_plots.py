"""Plots of a search: well-formed SVG that escapes names and keeps within its frame."""

import re
from xml.etree import ElementTree

import pytest

from rp2k_lab.pages.search_plots import (
    Axis,
    Line,
    Mark,
    importance_plot,
    parallel_plot,
    pareto_plot,
)
from rp2k_lab.pages.svg import round_ticks

NAME = '</title><script>alert("x")</script>\n'
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    """Return the root; fails if a name broke the XML, or a mark lies outside."""
    root = ElementTree.fromstring(str(svg))
    width, height = map(float, root.get("viewBox").split()[2:])
    assert not list(root.iter(f"{SVG}script"))
    for element in root.iter():
        assert all(0 <= float(element.get(key, 0)) <= width for key in ("x", "x1", "x2", "cx")), element.attrib
        assert all(0 <= float(element.get(key, 0)) <= height for key in ("y", "y1", "y2", "cy")), element.attrib
    return root


def test_pareto_plot_marks_the_best_and_joins_them_by_a_stair():
    marks = [Mark(30, 0.6, NAME, False), Mark(20, 0.61, "b", True), Mark(10, 0.5, "a", True)]
    root = parsed(pareto_plot(marks))
    circles = {circle.get("class"): circle for circle in root.iter(f"{SVG}circle")}
    assert [circle.get("class") for circle in root.iter(f"{SVG}circle")] == ["other", "front", "front"]
    assert 'alert("x")</script>\\n: 60.0 %, 30 s' in circles["other"].find(f"{SVG}title").text
    ((start_x, start_y), *corners) = [
        tuple(map(float, pair)) for pair in re.findall(r"[MH]([\d.]+)[ V]([\d.]+)", root.find(f"{SVG}path").get("d"))
    ]
    best = sorted(
        (float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle") if c.get("class") == "front"
    )
    assert [(start_x, start_y), *corners] == best


def test_pareto_plot_of_one_point():
    parsed(pareto_plot([Mark(12, 0.5, "a", True)]))


def test_parallel_plot_highlights_the_best_quarter():
    axes = [Axis(NAME, [(0.0, NAME), (1.0, "b")]), Axis("b", [(0.5, "c")]), Axis("val top-1", [(0.0, "20 %")])]
    lines = [Line([i / 7, 0.5, 1 - i / 7], f"{NAME}{i}", i) for i in range(8)]
    root = parsed(parallel_plot(axes, lines))
    drawn = [path.get("class") for path in root.iter(f"{SVG}path")]
    assert drawn == ["trial"] * 6 + ["trial top", "trial top first"]  # the best on top
    first = list(root.iter(f"{SVG}path"))[-1].get("d")
    heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", first)]
    assert heights[0] > heights[1] > heights[2]


def test_importance_plot_has_a_bar_for_each_dimension():
    root = parsed(importance_plot([(NAME, 0.75), ("b", 0.25)]))
    bars = [float(bar.get("width")) for bar in root.iter(f"{SVG}rect") if bar.get("class") == "bar"]
    assert bars[0] == pytest.approx(3 * bars[1], rel=0.01)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 35, [0, 10, 20, 30, 40]),
        (25.2, 58.2, [20, 30, 40, 50, 60]),
        (0.61, 0.64, [0.61, 0.62, 0.63, 0.64]),
        (50, 50, [50, 50.01]),
        (0, 0, [0, 0.0002]),
    ],
)
def test_round_ticks_enclose_the_range(low, high, ticks):
    found = round_ticks(low, high)
    assert found == ticks
    assert found[0] <= low <= high <= found[-1]
