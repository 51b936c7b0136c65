"""Page of a data set: hostile names, size limit, charts."""

import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.data_page import Inspection, inspection_page
from rp2k_lab.config.schema import parse
from rp2k_lab.core.text import escape_controls, percent
from rp2k_lab.dataset.photo_index import Listing
from rp2k_lab.dataset.shelf.distributions import RATIO_COUNTS
from rp2k_lab.dataset.summary import class_table, copies_by_relation
from rp2k_lab.pages import charts
from rp2k_lab.pages.images import ImageEmbedder
from rp2k_lab.task.inspect import readable_index

HOSTILE = ['<script>alert("1")<!--', "a\"'><img src=x onerror=alert(1)>", "line\nbreak\x07{{ 7*7 }}", "\u202etxt"]


def inspected(root, names, write_photo, copied=True):
    """Return (index, inspection) of a data set with four images and an unreadable file per class."""
    rows = []
    for number, name in enumerate(names):
        for i, split in enumerate(("train", "train", "val", "test")):
            path = f"{number}/{i}.png"
            write_photo(root / path, 20 + i, 40, seed=10 * number)
            rows.append((path, name, split, 100, 0, 20 + i, 40, None))
        rows.append((f"{name}\n.png", name, "train", 3, 0, 0, 0, "zero bytes"))
    table = pd.DataFrame(rows, columns=["path", "class", "split", "bytes", "changed", "width", "height", "problem"])
    table = table.astype({"problem": object, "path": object, "class": object})
    listing = Listing(root, table, [f"{name}.txt" for name in names])
    readable = table[table["problem"].isna()]
    copies = readable.assign(group=0, content=range(len(readable)), difference=0.05)
    copies = copies if copied else readable.assign(group=0)[:0]
    copies = copies.assign(content=0)[:0] if not copied else copies
    return readable_index(listing), Inspection(listing, class_table(table), copies, copies_by_relation(copies))


@pytest.fixture
def config(compose):
    return parse(compose("task=inspect", "aug=cutout"))


class Outline(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_names_are_escaped(config, tmp_path, write_photo):
    plain = inspection_page(config, *inspected(tmp_path, ["a", "b", "c", "d"], write_photo))
    page = inspection_page(config, *inspected(tmp_path, HOSTILE, write_photo))
    outline = Outline(page)
    assert [tag for tag, _ in outline.tags] == [tag for tag, _ in Outline(plain).tags]
    assert not {"iframe", "object", "link"} & {tag for tag, _ in outline.tags}
    assert [attributes for tag, attributes in outline.tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    text = "".join(outline.text)
    for name in HOSTILE:
        assert escape_controls(name) in text
    assert "{{ 7*7 }}" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)


def test_page_loads_nothing(config, tmp_path, write_photo):
    page = inspection_page(config, *inspected(tmp_path, ["a", "b"], write_photo))
    for _, attributes in Outline(page).tags:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in page


def test_links_point_to_sections(config, tmp_path, write_photo):
    tags = Outline(inspection_page(config, *inspected(tmp_path, ["a", "b"], write_photo))).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in tags if tag == "a"} <= set(ids)


@pytest.mark.parametrize("names", [["a"], [f"class {i}" for i in range(30)]], ids=["one class", "no copies"])
def test_page_of_a_small_or_clean_data_set(config, tmp_path, write_photo, names):
    page = inspection_page(config, *inspected(tmp_path, names, write_photo, copied=False))
    assert page.count("None found.") == 4


def test_page_of_a_data_set_without_readable_images(config, tmp_path, write_photo):
    _, inspection = inspected(tmp_path, ["a"], write_photo, copied=False)
    table = inspection.listing.table.assign(problem="zero bytes")
    listing = Listing(tmp_path, table, [])
    inspection = Inspection(listing, class_table(table), inspection.copies, inspection.relations)
    page = inspection_page(config, readable_index(listing), inspection)
    assert "There is no readable training photo." in page


def test_page_of_a_data_set_of_the_size_of_rp2k_is_bounded(config, tmp_path, write_photo):
    """2388 classes, 340,000 images, 40,000 copies, missing classes and unreadable files."""
    rng, count = np.random.default_rng(0), 340_000
    files = [write_photo(tmp_path / f"{i}.jpg", 60, 120, seed=i).name for i in range(4)]
    names = np.array([f"伊利安慕希瓶装芒果+百香果{i}g" for i in range(2388)], object)
    table = pd.DataFrame({"path": np.array(files, object)[rng.integers(4, size=count)], "class": ""})
    table["class"] = names[np.minimum(rng.zipf(1.3, count) - 1, 2387)]
    table["split"] = rng.choice(["train", "val", "test"], count, p=[0.8, 0.1, 0.1])
    table = table.assign(
        changed=0, bytes=rng.integers(1, 10**6, count), width=rng.integers(1, 5000, count), problem=None
    )
    table["height"] = rng.integers(1, 5000, count)
    table.loc[:5000, "problem"] = "truncated JPEG"
    copies = table[5001:45001].assign(group=np.arange(40_000) // 2, content=np.arange(40_000) // 3, difference=0.0)
    listing = Listing(tmp_path, table, [f"{i}.txt" for i in range(9000)])
    inspection = Inspection(listing, class_table(table), copies, copies_by_relation(copies))
    page = inspection_page(config, readable_index(listing), inspection)
    assert len(page.encode()) < 20_000_000
    assert len(Outline(page).tags) < 8000


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_photo, compose):
    """2388 classes with long Chinese names and a training photo, the last of three; every second lacks a val photo."""
    root = tmp_path_factory.mktemp("many")
    write_photo(root / "photo.png", 20, 40)
    rows = []
    for i in range(2388):
        name = f"伊利安慕希瓶装芒果百香果风味酸奶家庭分享装限量版礼盒{i}g"
        for turn, split in enumerate(["train"] * (3 if i == 2387 else 1) + ["val"] * (i % 2)):
            os.link(root / "photo.png", root / f"{i}_{turn}.png")
            rows.append((f"{i}_{turn}.png", name, split, 100, 0, 20, 40, None))
    table = pd.DataFrame(rows, columns=["path", "class", "split", "bytes", "changed", "width", "height", "problem"])
    table = table.astype({"problem": object, "path": object, "class": object})
    copies = table.assign(group=0, content=0, difference=0.0)[:0]
    listing = Listing(root, table, [])
    inspection = Inspection(listing, class_table(table), copies, copies_by_relation(copies))
    page = inspection_page(parse(compose("task=inspect")), readable_index(listing), inspection)
    (root / "inspection.html").write_text(page, "utf-8")
    return root / "inspection.html"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_all_of_2388_classes_are_found_with_their_photos(browser, many, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(many.as_uri())
    count, cards = page.locator("#class-count"), page.locator("#class-list article")
    assert count.inner_text() == "2,388"
    assert [cards.count(), page.locator("#class-range").inner_text()] == [12, "1 to 12"]
    page.locator("#class-search").fill("礼盒 2387G")
    assert [count.inner_text(), cards.count()] == ["1 of 2,388", 1]
    assert "礼盒2387g" in cards.first.inner_text()
    assert "train 3 · val 1 · test 0" in cards.first.inner_text()
    widths = "all => all.map(image => image.complete && image.naturalWidth)"
    assert cards.locator("img").evaluate_all(widths) == [20] * 3
    page.locator("#class-search").fill("no such class")
    assert page.locator("#class-list").inner_text() == "No class matches."
    page.locator("button[data-without=val]").click()
    assert count.inner_text() == "1,194 of 2,388"
    page.locator("#class-order").select_option("few")
    page.locator("#class-next").click()
    assert page.locator("#class-range").inner_text() == "13 to 24"
    assert "train 1 · val 0" in cards.first.inner_text()
    page.locator("#class-back").click()
    assert page.locator("#class-range").inner_text() == "1 to 12"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth).length"
    assert page.locator("section, p, b, svg, input, select, button, .class").evaluate_all(wide) == 0
    scale = "svg.clientWidth / svg.viewBox.baseVal.width"
    sizes = f"all => all.map(svg => {scale} * parseFloat(getComputedStyle(svg).fontSize))"
    assert min(page.locator("svg.chart").evaluate_all(sizes)) > 11  # pixels of a letter
    assert messages == []
    context.close()


def test_every_class_has_a_photo_before_one_has_two(config, tmp_path, write_photo):
    files = [write_photo(tmp_path / f"{i}.png", 40, 40, seed=i).name for i in range(6)]
    embedder = ImageEmbedder(tmp_path, budget=10**6)
    first = list(embedder.rounds([files[:3], files[3:]], 2))
    assert [list(images) for images in first] == [files[:3], files[3:]]
    embedder = ImageEmbedder(tmp_path, budget=sum(len(text) + 5 for text in first[0].values()) + 20)
    assert list(embedder.rounds([files[:3], files[3:]], 1)) == [first[0], {}]


def test_images_beyond_the_budget_are_left_out(tmp_path, write_photo):
    write_photo(tmp_path / "a.png", 400, 800)
    thumbnail = ImageEmbedder(tmp_path).thumbnail("a.png")
    assert (thumbnail.width, thumbnail.height) == (66, 132)
    assert thumbnail.uri.startswith("data:image/jpeg;base64,")
    embedder = ImageEmbedder(tmp_path, budget=2 * len(thumbnail.uri) + 10)
    uris = [embedder.thumbnail("a.png").uri for _ in range(5)]
    assert [uri is None for uri in uris] == [False, False, True, True, True]
    assert embedder.left_out == 3
    assert ImageEmbedder(tmp_path).thumbnail("gone.png").reason == "not readable"


def test_escape_controls_keeps_printable_text():
    assert escape_controls("a\n\t\x00b") == "a\\n\\t\\x00b"
    assert escape_controls("555（冰炫） 伊利") == "555（冰炫） 伊利"
    assert escape_controls("\udcff\u202e") == "\\xff\\u202e"


def curve(*bins):
    """Return a curve from bins of (images, accuracy, upper edge)."""
    rows = [(0, edge, n, accuracy, max(0, accuracy - 0.1), min(1, accuracy + 0.1)) for n, accuracy, edge in bins]
    return pd.DataFrame(rows, columns=["low_edge", "high_edge", "images", "accuracy", "low", "high"])


@pytest.mark.parametrize(
    "chart",
    [
        pytest.param(
            lambda: charts.rank_chart(np.array([900, 30, 30, 1]), ["head", "medium", "medium", "tail"]), id="rank"
        ),
        pytest.param(lambda: charts.rank_chart(np.array([1]), ["medium"]), id="one class"),
        pytest.param(lambda: charts.rank_chart(np.zeros(0, int), []), id="no class"),
        pytest.param(lambda: charts.ratio_chart(np.arange(11), RATIO_COUNTS), id="ratio"),
        pytest.param(lambda: charts.ratio_chart(np.zeros(11, int), RATIO_COUNTS), id="no ratio"),
        pytest.param(lambda: charts.shape_chart(np.array([0.4, 1, 1.01, 9])), id="shapes"),
        pytest.param(lambda: charts.shape_chart(np.array([1.0])), id="one shape"),
        pytest.param(lambda: charts.size_chart(np.array([8.0, 4000]), np.array([30.0, 10])), id="sizes"),
        pytest.param(lambda: charts.size_chart(np.array([32.0]), np.array([32.0])), id="one size"),
        pytest.param(lambda: charts.bytes_chart(np.array([100.0, 10**7])), id="bytes"),
        pytest.param(lambda: charts.bytes_chart(np.array([100.0])), id="one file"),
        pytest.param(lambda: charts.accuracy_chart(curve((0, 0.0, 1), (50, 0.5, 20), (20, 1, 5)), "ratio"), id="curve"),
        pytest.param(lambda: charts.accuracy_chart(curve((20, 0.97, 30)), "brightness"), id="one bin"),
        pytest.param(lambda: charts.accuracy_chart(curve((0, 0.5, 1)), "brightness"), id="empty bin"),
    ],
)
def test_charts_are_within_their_frame(chart):
    svg = ElementTree.fromstring(chart())
    width, height = (float(side) for side in svg.get("viewBox").split()[2:])
    for rect in svg.iter("rect"):
        box = SimpleNamespace(**{name: float(rect.get(name)) for name in ("x", "y", "width", "height")})
        assert 0 <= box.x <= box.x + box.width <= width
        assert 0 <= box.y <= box.y + box.height <= height + 0.1
        assert box.height >= 0
    for circle in svg.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= width
        assert 0 <= float(circle.get("cy")) <= height
    for text in svg.iter("text"):
        assert 0 < float(text.get("x")) < width
    for path in svg.iter("path"):
        ys = [float(y) for y in re.findall(r"V(-?[\d.]+)", path.get("d"))]
        assert all(0 <= y <= height for y in ys)


@pytest.mark.parametrize("choice", ["shelf", "folder"])
def test_other_photos_are_not_compared_with_rp2k(tmp_path, write_photo, compose, choice):
    index, inspection = inspected(tmp_path / "photos", ["tea", "milk"], write_photo)
    request = [f"dataset={choice}", f"dataset.root={tmp_path}/photos", "dataset.mean=[0.5,0.5,0.5]"]
    page = inspection_page(parse(compose("task=inspect", *request)), index, inspection)
    title = {"shelf": "shelf", "folder": "photos"}[choice]
    assert f"<title>{title}: inspection</title>" in page
    assert ("rp2k" in page.lower()) == (choice == "shelf")


def test_ratio_chart_titles_have_numbers():
    svg = ElementTree.fromstring(charts.ratio_chart(np.eye(11, dtype=int)[2] * 4, RATIO_COUNTS))
    titles = [title.text for title in svg.iter("title")]
    assert "1 to 1.5: 100.0 % (4 photos)" in titles
    assert "2.5 to 3: 20.5 % in RP2K" in titles


def test_accuracy_chart_titles_have_numbers_and_marks_are_to_scale():
    svg = ElementTree.fromstring(
        charts.accuracy_chart(curve((1200, 0.5, 20), (0, float("nan"), 30), (9, 0.6, 40)), "x")
    )
    titles = [title.text for title in svg.iter("title")]
    assert titles == ["0 to 20: 50.0 % [40.0, 60.0] of 1,200 photos", "0 to 40: 60.0 % [50.0, 70.0] of 9 photos"]
    first, second = ([float(part) for part in (g[1].get("y1"), g[2].get("cy"), g[1].get("y2"))] for g in svg.iter("g"))
    assert second == pytest.approx([first[1], first[2], 2 * first[2] - first[1]], abs=0.2)


def test_percent_shows_nan_as_a_dash():
    assert [percent(fraction) for fraction in (0.62345, 1.0, float("nan"))] == ["62.3 %", "100.0 %", "–"]
