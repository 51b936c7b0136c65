"""Labels are decided on the errors' page in a real browser, and downloaded as a list."""

import re

from playwright.sync_api import expect

from rp2k_lab.analysis.error_page import Content, Review, page_order, write_page
from rp2k_lab.core.csv_files import read_csv
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.relabel import read_relabels
from tests.helpers import error_tables
from tests.helpers.error_pages import FACTS, NAMES, RandomThumbnails, count


def downloaded(page, folder):
    """Download the list of labels, and return its file."""
    with page.expect_download() as download:
        page.click("#review-download")
    assert download.value.suggested_filename == "reviewed_labels.csv"
    download.value.save_as(folder / "reviewed_labels.csv")
    return folder / "reviewed_labels.csv"


def current_path(page):
    return page.locator(".case:focus .path").inner_text()


def suspects_of(tables):
    """Return the suspected labels of the page, most suspected first."""
    errors = page_order(tables.cases, tables.pairs)
    suspects = errors[errors["suggested"] != ""].assign(score=errors["suspicion"].round(3))
    return suspects.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def test_labels_are_decided_by_keyboard_and_downloaded(opened, small, tmp_path):
    view, suspects = opened(small.file), suspects_of(small.tables)
    page, shown = view.page, suspects["path"].map(escape_controls)
    assert page.locator("#review-count").inner_text() == f"0 of {len(suspects)} decided"
    page.click("#review-start")
    assert count(page) == len(suspects)
    assert current_path(page) == shown[0]
    page.keyboard.press("r")
    assert current_path(page) == shown[1]
    page.keyboard.press("w")
    page.keyboard.press("c")
    page.keyboard.type("伊利")
    page.keyboard.press("Enter")
    assert current_path(page) == shown[3]
    page.keyboard.press("j")  # leaves out the fourth
    page.keyboard.press("w")
    page.keyboard.press("w")
    page.keyboard.press("u")
    assert current_path(page) == shown[5]
    page.keyboard.press("k")
    assert current_path(page) == shown[4]
    for _ in range(22):  # the next page, too
        page.keyboard.press("ArrowDown")
    assert current_path(page) == shown[26]
    assert page.locator("#progress").inner_text() == f"4 of {len(suspects)} decided"
    file = downloaded(page, tmp_path)
    table = read_csv(file)
    assert table["path"].tolist() == suspects["path"].tolist()
    assert table["given"].tolist() == suspects["true"].tolist()
    assert table["decision"].tolist()[:6] == ["no", "yes", "yes", "", "yes", ""]
    assert table["score"].astype(float).tolist() == suspects["score"].tolist()
    followed = read_relabels(file)
    assert followed["suggested"].tolist() == [suspects["suggested"][1], "伊利安慕希 500g", suspects["suggested"][4]]
    assert view.messages == []
    assert [url for url in view.requests if not url.startswith("blob:")] == [small.file.as_uri()]


def test_decisions_outlive_the_page_and_filter_it(opened, small):
    page = opened(small.file).page
    page.click("#review-start")
    for key in "rwwr":
        page.keyboard.press(key)
    page.reload()
    expect(page.locator("#review-count")).to_have_text(re.compile("^4 of"))
    assert "2 wrong, 2 right" in page.locator("#review-note").inner_text()
    for state, expected in (("right", 2), ("wrong", 2), ("open", len(suspects_of(small.tables)) - 4)):
        page.select_option("#review-state", state)
        assert count(page) == expected
    page.keyboard.press("Escape")
    page.select_option("#review-state", "wrong")
    page.locator("h1").click()
    page.keyboard.press("u")  # the last decision, made before the page was loaded again
    assert page.locator("#progress").inner_text().startswith("3 of ")


def test_labels_are_decided_by_buttons_on_a_phone(opened, small):
    page = opened(small.file, 390).page
    page.click("#review-start")
    card = page.locator(".case").first
    assert card.locator(".decide button").all_inner_texts()[2].strip() == "another class …"
    card.locator(".decide button").nth(1).click()
    assert card.locator(".decide [aria-pressed=true]").inner_text().startswith("wrong, it is ")
    card.locator(".decide button").nth(2).click()
    page.fill("#choose-search", "class 2")
    page.locator("#choose-list .option").first.click()
    assert card.locator(".decide [aria-pressed=true]").inner_text() == "wrong, it is class 2"
    card.locator(".decide button").nth(0).click()
    assert page.locator("#review-count").inner_text().startswith("1 of ")
    assert min(box["height"] for box in map(lambda b: b.bounding_box(), card.locator(".decide button").all())) >= 40
    card.locator("img").first.click()
    assert page.locator("#large figure").count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#large button:text-is('close')")
    assert not page.locator("#large").is_visible()


def test_a_class_that_no_name_matches_decides_nothing(opened, small):
    page = opened(small.file).page
    page.click("#review-start")
    page.keyboard.press("c")
    page.keyboard.type("no such class")
    page.keyboard.press("Enter")
    assert page.locator("#choose-list").inner_text() == "No class has this in its name."
    page.keyboard.press("Escape")
    assert page.locator("#review-count").inner_text().startswith("0 of ")


def test_an_earlier_list_is_continued(opened, small, tmp_path):
    page = opened(small.file).page
    page.click("#review-start")
    for key in "rwr":
        page.keyboard.press(key)
    first = downloaded(page, tmp_path)
    other = opened(small.file).page  # another browser
    other.set_input_files("#review-file", first)
    expect(other.locator("#review-note")).to_contain_text("3 decisions read.")
    (tmp_path / "second").mkdir()
    assert downloaded(other, tmp_path / "second").read_bytes() == first.read_bytes()
    stranger = tmp_path / "stranger.csv"
    lines = ["path,suggested,decision,note", 'gone.jpg,class 1,yes,"a ""b"",\nc"']
    lines.append("gone.jpg,class 1,no,")
    stranger.write_text("\n".join(lines), "utf-8")
    other.set_input_files("#review-file", stranger)
    expect(other.locator("#review-note")).to_contain_text("0 decisions read; 2 are of no suspected label or class")
    stranger.write_text("path;suggested;decision\n", "utf-8")
    other.set_input_files("#review-file", stranger)
    expect(other.locator("#review-note")).to_contain_text("This is no list of this page")


def test_a_second_list_includes_the_first(opened, tmp_path):
    """The photos have the labels of the first list; the column given has those of the data."""
    tables = error_tables.tables(120, NAMES)
    suspects = tables.cases[tables.cases["suggested"] != ""].assign(score=lambda table: table["suspicion"].round(3))
    suspects = suspects.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    first = [(path, "class 4", label) for path, label in zip(suspects["path"][:3], suspects["true"], strict=False)]
    first.append(("train/a, b.jpg", "class 1", "伊利安慕希 500g"))
    review = Review("second", "train", "python run.py", first)
    write_page(tmp_path / "errors.html", Content(FACTS, tables, review), RandomThumbnails(NAMES))
    page = opened(tmp_path / "errors.html").page
    page.click("#review-start")
    page.keyboard.press("r")  # the first list was right
    page.keyboard.press("c")  # it was wrong, the data were right
    page.keyboard.type("class 4")
    page.keyboard.press("Enter")
    page.keyboard.press("j")  # no decision: the line stays
    page.keyboard.press("w")  # of no line
    followed = read_relabels(downloaded(page, tmp_path))
    expected = [first[0], first[2], (suspects["path"][3], suspects["true"][3], suspects["suggested"][3]), first[3]]
    assert followed.to_numpy().tolist() == [list(line) for line in expected]


def test_a_browser_that_keeps_nothing_says_so(opened, small, tmp_path):
    """As in a frame of another page."""
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    view = opened(small.file, before=refuse)
    view.page.click("#review-start")
    view.page.keyboard.press("w")
    assert "download the list before you close the page" in view.page.locator("#review-note").inner_text()
    assert len(read_relabels(downloaded(view.page, tmp_path))) == 1
    assert view.messages == []


def test_photos_are_enlarged_and_decided_there(opened, small):
    page, suspects = opened(small.file).page, suspects_of(small.tables)
    page.click("#review-start")
    page.keyboard.press("Enter")
    dialog = page.locator("#large")
    assert dialog.locator(".path").inner_text() == escape_controls(suspects["path"][0])
    sizes = dialog.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert max(sizes) == 2 * 104
    assert dialog.locator("img").first.bounding_box()["height"] > 2 * 104
    page.keyboard.press("w")
    assert dialog.locator(".path").inner_text() == escape_controls(suspects["path"][1])
    page.keyboard.press("Enter")  # decides nothing: no button has the focus
    assert page.locator("#progress").inner_text().startswith("1 of ")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert current_path(page) == escape_controls(suspects["path"][1])
