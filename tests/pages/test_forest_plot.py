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


def plot(bars, width=None):
    return ElementTree.fromstring(forest(bars, "points & <more>", width=width))


def marks(svg, kind):
    return [mark for mark in svg.iter() if kind in mark.get("class", "").split()]


def percent(mark, name):
    return float(mark.get(name).removesuffix("%"))


@pytest.mark.parametrize(
    "bars", [BARS, BARS[2:3], BARS[3:], [Bar("none", None, 0, 0, "inconclusive", None, "not compared")]]
)
def test_all_marks_are_within_the_frame(bars):
    svg = plot(bars, 760)
    _, _, width, height = map(float, svg.get("viewBox").split())
    assert (width, height) == (760, float(plot(bars).get("height")))
    for mark in svg.iter():
        for name in ("x", "x1", "x2"):
            assert 0 <= float(mark.get(name, "0").removesuffix("%")) <= 100
        for name in ("y", "y1", "y2"):
            assert 0 <= float(mark.get(name, 0)) <= height
    assert len(marks(svg, "zero")) == len(bars)


def test_no_line_crosses_a_text():
    svg = plot(BARS)
    lines = [(float(line.get("y1")), float(line.get("y2"))) for line in svg.iter(f"{SVG}line")]
    for text in svg.iter(f"{SVG}text"):
        base = float(text.get("y"))
        assert not any(top < base + 3 and bottom > base - 11 for top, bottom in lines), text.text


def test_marks_are_drawn_to_scale_with_a_shape_for_each_verdict():
    svg = plot(BARS)
    zero = percent(marks(svg, "zero")[0], "x1")
    places = {kind: percent(marks(svg, kind)[-1], "x") for kind in ("better", "worse", "inconclusive")}
    assert places["worse"] < zero < places["better"]
    assert places["inconclusive"] == pytest.approx(zero, abs=0.01)
    assert places["better"] - zero == pytest.approx(zero - places["worse"], abs=0.02)
    better = svg.find(f"{SVG}g[@class='better']")
    ends = [percent(line, "x1") for line in better.iter(f"{SVG}line")][1:]
    assert (ends[0] - zero) / (ends[1] - zero) == pytest.approx(2 / 8, abs=0.01)
    assert [title.text for title in better.iter(f"{SVG}title")] == ["up: +5.0 [+2.0, +8.0]"]
    shapes = [marks(svg, kind)[-1].find(f"{SVG}path").get("d") for kind in places]
    assert len(set(shapes)) == 3
    assert len(marks(svg, "published")) == 3  # two bars and the legend
    texts = ["".join(text.itertext()) for text in svg.iter(f"{SVG}text")]
    expected = {"<down>\\x00", "not compared", "points & <more>", "0", "▲ +5.0 [+2.0, +8.0]", "▼ −5.0 [−30.0, −0.1]"}
    assert expected <= set(texts)


@pytest.mark.parametrize("name", ["芒果" * 40, "x" * 90])
def test_a_long_name_leaves_place_for_its_value_on_a_phone(browser, name):
    page = browser.new_page(viewport={"width": 332, "height": 200})
    page.set_content(f"<style>body {{ margin: 0 }}</style>{forest([Bar(name, 0.1, 0.02, 0.18, 'better')], 'x')}")
    boxes = page.locator("text").evaluate_all("all => all.slice(0, 2).map(text => text.getBoundingClientRect())")
    assert boxes[0]["right"] < boxes[1]["left"]
    assert page.locator(".ends").is_hidden()
    page.close()


def test_no_published_difference_means_no_legend():
    assert not marks(plot([BARS[1]]), "published")


@pytest.mark.parametrize("span", [0.0, 0.3, 1, 6, 7, 30, 200])
def test_tick_steps_are_round_and_few(span):
    step = _step(span)
    assert f"{step:e}"[0] in "125"
    assert max(span, 0.1) / 6 <= step * 1.0001 <= max(span, 0.1) / 6 * 2.5
