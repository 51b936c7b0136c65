"""Lines with intervals as SVG."""

import xml.etree.ElementTree as ET

from rp2k_lab.pages.line_plot import Line, Panel, Point, line_plot


def test_each_point_has_its_interval_in_a_tooltip_and_names_are_escaped():
    points = [Point(0, 0.5, 0.4, 0.6), Point(1, 0.9, 0.8, 1.2)]
    panels = [Panel(title, [Line("a < b", points), Line("reference", points[:1], True)]) for title in ("new", "old")]
    svg = line_plot(panels, ["1", "all"], "photos")
    root = ET.fromstring(svg)
    tips = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert tips.count("a < b, 1: 50.0 % [40.0 %, 60.0 %]") == 2
    assert len(tips) == 6
    height = float(root.attrib["viewBox"].split()[3])
    marks = [element for element in root.iter() if "cy" in element.attrib]
    assert all(0 < float(mark.attrib["cy"]) < height for mark in marks)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"new", "old", "photos", "all", "reference", "100 %"} <= set(texts)
