"""Forest plot: marks at the right positions, within the frame."""

from xml.etree import ElementTree

import pytest

from rp2k_lab.pages.forest_plot import Bar, _step, forest

SVG = "{http://www.w3.org/2000/svg}"
BARS = [
    Bar("up", 0.05, 0.02, 0.08, "better", published=0.0007),
    Bar("<down>\x00", -0.05, -0.3, -0.001, "worse"),
    Bar("same", 0.0, 0.0, 0.0, "inconclusive"),
    Bar("missing", None, 0, 0, "inconclusive", 0.0317, "not compared"),
]


def plot(bars):
    return ElementTree.fromstring(forest(bars, "points & <more>"))


def marks(svg, kind):
    return [mark for mark in svg.iter() if kind in mark.get("class", "").split()]


@pytest.mark.parametrize(
    "bars", [BARS, BARS[2:3], BARS[3:], [Bar("none", None, 0, 0, "inconclusive", None, "not compared")]]
)
def test_all_marks_are_within_the_frame(bars):
    svg = plot(bars)
    width, height = map(float, svg.get("viewBox").split()[2:])
    for mark in svg.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(mark.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(mark.get(name, 0)) <= height
    assert len(marks(svg, "zero")) == 1


def test_marks_are_drawn_to_scale():
    svg = plot(BARS)
    zero = float(marks(svg, "zero")[0].get("x1"))
    circles = [float(mark.get("cx")) for mark in svg.iter(f"{SVG}circle")]
    assert circles[1] < zero < circles[0]
    assert circles[2] == pytest.approx(zero, abs=0.1)
    assert circles[0] - zero == pytest.approx(zero - circles[1], abs=0.2)
    better = svg.find(f"{SVG}g[@class='better']")
    ends = [float(line.get("x1")) for line in better.iter(f"{SVG}line")][1:]
    assert (ends[0] - zero) / (ends[1] - zero) == pytest.approx(2 / 8, abs=0.02)
    assert [title.text for title in better.iter(f"{SVG}title")] == ["up: +5.0 [+2.0, +8.0]"]
    assert len(marks(svg, "published")) == 3  # two bars and the legend
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"<down>\\x00", "not compared", "points & <more>", "0"} <= set(texts)


def test_no_published_difference_means_no_legend():
    assert not marks(plot([BARS[1]]), "published")


@pytest.mark.parametrize("span", [0.0, 0.3, 1, 6, 7, 30, 200])
def test_tick_steps_are_round_and_few(span):
    step = _step(span)
    assert f"{step:e}"[0] in "125"
    assert max(span, 0.1) / 6 <= step * 1.0001 <= max(span, 0.1) / 6 * 2.5
