"""Documents of a judged table, as shown in a browser, in git and in a terminal."""

import csv
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from rp2k_lab import PROJECT
from rp2k_lab.ablation.report import CSV, FIGURE, NOTES, PAGE, README, document, figure, write_documents
from rp2k_lab.ablation.results import check_results
from rp2k_lab.ablation.verdict import judge_table
from rp2k_lab.ablation.wording import decimals, difference_cells, run_command, sentence, summary
from rp2k_lab.config.ablation import names
from rp2k_lab.core.errors import DataError
from rp2k_lab.pages.document import to_markdown
from rp2k_lab.pages.forest_plot import FILE_WIDTH
from tests.helpers import synthetic_results

HOSTILE = "<script>alert(1)</script>|`x`\n# {{ 7*7 }} \u202e 伊利安慕希瓶装芒果+百香果230g"


def judged(ablation, scale, truth, seeds=range(3), images=600, more=()):
    cells, rows = synthetic_results.results(truth, seeds, images)
    cells = pd.concat([cells, pd.DataFrame(more)]) if more else cells
    return judge_table(ablation, scale, check_results(cells, rows, "synthetic"))


@pytest.fixture(scope="module")
def full():
    """Return a table with rows that are better, worse, inconclusive, of one seed, failed and missing."""
    ablation = synthetic_results.ablation("augmentation")
    truth = dict(zip(ablation.levels, (0.6, 0.6, 0.7, 0.6, 0.5, 0.6), strict=False))
    cells, images = synthetic_results.results(truth)
    cells = cells[~((cells["level"] == "RandAugment") & (cells["seed"] > 0))]
    more = [
        synthetic_results.unfinished("Random Erasing", 0, "failed", HOSTILE),
        synthetic_results.unfinished("Random Erasing", 1, "running"),
    ]
    return judge_table(ablation, "laptop", check_results(pd.concat([cells, pd.DataFrame(more)]), images, "synthetic"))


def read(folder):
    return {name: (folder / name).read_text("utf-8") for name in (README, PAGE, CSV, FIGURE)}


ASKED = [
    (name, scale)
    for name in names()
    for scale in ("paper", "laptop", "smoke", "grocery_val")
    if len(synthetic_results.ablation(name).level_names(scale)) > 1
]


@pytest.mark.parametrize(("name", "scale"), ASKED)
def test_every_table_has_documents(tmp_path, name, scale):
    ablation = synthetic_results.ablation(name)
    table = judged(ablation, scale, dict.fromkeys(ablation.level_names(scale), 0.6), [0], 100)
    assert [file.name for file in write_documents(table, tmp_path)] == [README, PAGE, CSV, FIGURE]
    texts = read(tmp_path)
    assert texts[README].replace("\\_", "_").startswith(f"# {ablation.question}\n")
    assert f"\n    python run.py task=report ablation={name} scale={scale}" in texts[README]
    assert ("mean nothing" in texts[README]) == (scale == "smoke")
    assert ("| starts from |" in texts[README]) == (name in ("fixres", "ensemble"))
    rows = csv.DictReader(io.StringIO(texts[CSV].lstrip("\ufeff")))
    assert [row["level"] for row in rows] == ablation.level_names(scale)
    for text in texts.values():
        assert not re.search(r"\bnan\b|None,|object at", text)
        for folder in (tempfile.gettempdir(), PROJECT, Path.home(), "/home", Path.home().anchor + "root"):
            assert f"{folder}/" not in text


def test_rewriting_gives_equal_bytes_and_keeps_notes(tmp_path, full):
    (tmp_path / NOTES).write_text("Seen **twice**.\n\n<b>so</b>\n", "utf-8")
    write_documents(full, tmp_path)
    first = read(tmp_path)
    write_documents(full, tmp_path)
    assert read(tmp_path) == first
    assert first[README].endswith("## Notes\n\n> Seen **twice**.\n>\n> <b>so</b>\n")
    assert "<p>Seen <strong>twice</strong>.</p>\n<p>&lt;b&gt;so&lt;/b&gt;</p>\n" in first[PAGE]
    assert {file.name for file in tmp_path.iterdir()} == {README, PAGE, CSV, FIGURE, NOTES}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gbk", "utf-16"])
def test_notes_of_another_editor_are_read(tmp_path, full, encoding):
    (tmp_path / NOTES).write_text("| 口味 | 芒果 |\n|---|---|\n| a | b |\n", encoding)
    write_documents(full, tmp_path)
    assert "<td>b</td>" in read(tmp_path)[PAGE]


def test_notes_that_are_no_text_are_named(tmp_path, full):
    (tmp_path / NOTES).write_bytes(b"K\xe4se")
    with pytest.raises(DataError, match=r"notes\.md: neither UTF-8 nor UTF-16 nor GB18030\nsave it as UTF-8$"):
        write_documents(full, tmp_path)


def test_both_documents_have_the_same_text(tmp_path, full):
    write_documents(full, tmp_path)
    texts = read(tmp_path)
    for row in full.rows[1:]:
        verdict, *numbers = difference_cells(row)
        assert f">{verdict.signed}</span>" in texts[PAGE]
        assert f"| {row.level} | {verdict.signed} |" in texts[README]
        for number in numbers:
            assert f'<td class="n">{escape(number)}</td>' in texts[PAGE]
            assert number.replace("[", r"\[").replace("]", r"\]").replace("<", "&lt;") in texts[README]
        if not row.word:  # the reason for no verdict
            assert sentence(row).text.replace("[", r"\[").replace("]", r"\]") in texts[README]
    signs = {"▲ better", "▼ worse", "○ inconclusive"}
    assert signs == {sign for sign in signs if sign in texts[README] and sign in texts[PAGE]}
    assert "95.34 % |" in texts[README]
    assert "+0.11 |" in texts[README]
    assert "![" in texts[README]
    assert f"]({FIGURE})" in texts[README]
    assert figure(full).strip() in texts[PAGE]
    assert figure(full, FILE_WIDTH) == texts[FIGURE]


def test_sentence_has_verdict_and_interval(full):
    items = {row.level: sentence(row) for row in full.rows if row.baseline}
    assert items["Cutout 14"].lead == "Cutout 14 against none"
    assert items["Cutout 14"].tag.word == "better"
    assert re.fullmatch(
        r"\+\d+\.\d points \[(>0|\+\d\.\d), \+\d+\.\d\], p (< 0\.001|0\.0\d\d) \(5 seeds, 2,000 test images\)",
        items["Cutout 14"].text,
    )
    assert items["AutoAugment"].tag.word == "worse"
    assert re.fullmatch(r"inconclusive \(±\d\.\d\)", items["Cutout 28"].tag.word)
    assert items["RandAugment"].tag.word == "one seed, so no verdict"
    assert items["RandAugment"].text.endswith("the spread between seeds is the other levels'")
    assert (items["Random Erasing"].tag.word, items["Random Erasing"].text) == (
        "not compared", "no finished run of Random Erasing")  # fmt: skip


def test_printed_half_width_is_rounded_up(full):
    found = [row for row in full.rows if row.word == "inconclusive"]
    assert found
    for row in found:
        printed = float(re.search(r"±(\S+)\)", sentence(row).tag.word).group(1))
        assert 100 * row.verdict.half_width <= printed < 100 * row.verdict.half_width + 0.1


def test_report_says_what_would_decide_the_rest(full):
    text = to_markdown(document(full, ""))
    section = text.partition("## What is decided, and what would decide the rest\n\n")[2].partition("\n\n## ")[0]
    widths = [[float(width) for width in re.findall(r"±(\d+\.\d)", line)] for line in section.splitlines()]
    widths = np.array([line for line in widths if len(line) == 3])
    assert widths.shape == (5, 3)
    assert (np.diff(widths, axis=0) < 0).all()  # more seeds
    assert (np.diff(widths, axis=1) <= 0).all()  # more images
    assert "2,000 images" in section


def test_identical_runs_get_no_estimate_of_seeds():
    ablation = synthetic_results.table_of("a", "b")
    cells, images = synthetic_results.results({"a": 0.6}, range(2), 300)
    table = judge_table(
        ablation, "laptop", check_results(pd.concat([cells, cells.assign(level="b")]), images, "synthetic")
    )
    assert "What would decide the rest" not in [section.title for section in document(table, "").sections]


def test_summary_counts_every_outcome(full):
    assert summary(full) == (
        "better: Cutout 14; worse: AutoAugment; inconclusive: 2 of 6; one seed, so no verdict: 1 of 6; "
        "not compared: 1 of 6; 9 of 35 runs have no result"
    )
    whole = judged(synthetic_results.table_of("a", "b"), "laptop", {"a": 0.5, "b": 0.8})
    assert summary(whole) == "better: b"


def test_missing_cells_are_listed(tmp_path, full):
    write_documents(full, tmp_path)
    text = read(tmp_path)[README].partition("## What is missing\n\n")[2].partition("\n\n## ")[0]
    lines = text.split("\n")
    assert lines[0] == "- **RandAugment** *not run*: seeds 1, 2, 3, 4"
    assert lines[1].startswith(r"- **Random Erasing, seed 0** *failed*: &lt;script&gt;alert(1)&lt;/script&gt;\|\`x\`")
    assert lines[2:] == [
        "- **Random Erasing** *still running*: seed 1",
        "- **Random Erasing** *not run*: seeds 2, 3, 4",
    ]
    whole = judged(synthetic_results.table_of("a", "b"), "laptop", {"a": 0.5, "b": 0.8})
    assert "What is missing" not in [section.title for section in document(whole, "").sections]


def test_verdict_csv_has_unrounded_numbers(tmp_path, full):
    write_documents(full, tmp_path)
    rows = {row["level"]: row for row in csv.DictReader(io.StringIO(read(tmp_path)[CSV]))}
    for row in full.rows:
        written = rows[row.level]
        assert int(written["seeds_done"]) == len(row.seeds)
        assert int(written["seeds_wanted"]) == 5
        if row.verdict:
            for name in ("low", "high", "p"):
                number = getattr(row.verdict, name)
                assert written[name] == ("" if number != number else repr(number))
            assert float(written["difference"]) == row.verdict.value
    assert (rows["none"]["difference"], rows["none"]["baseline"], rows["Cutout 7"]["baseline"]) == ("", "", "none")
    assert (rows["Random Erasing"]["seeds_failed"], rows["Random Erasing"]["seeds_missing"]) == ("1", "3")
    assert rows["Cutout 14"]["published_shown"] == "depends"


def test_run_command_names_seeds_and_data_if_needed():
    ablation = synthetic_results.ablation("resize")
    assert run_command(ablation, "laptop") == "python run.py -m ablation=resize scale=laptop"
    assert run_command(ablation, "laptop", (3, 7)).endswith("scale=laptop seed=0,1,2,3,7")
    assert run_command(ablation, "paper", (9,)).endswith("seed=0,1,2,3,4,5,6,7,9 dataset.root=FOLDER")
    assert run_command(ablation, "grozi").endswith("scale=grozi dataset=table dataset.table=FILE")


def test_decimals_follow_the_number_of_images():
    assert (decimals(2000), decimals(39_027)) == (1, 2)


@pytest.fixture(scope="module")
def hostile():
    """Return a table with hostile names and reasons."""
    ablation = synthetic_results.table_of("plain", HOSTILE, "x" * 300, question=HOSTILE, source=HOSTILE)
    more = [
        synthetic_results.unfinished("x" * 300, 0, "failed", HOSTILE * 9),
        synthetic_results.unfinished("plain", 9, "failed", "y" * 900),
    ]
    return judged(ablation, "laptop", {"plain": 0.5, HOSTILE: 0.6}, more=more)


@pytest.mark.parametrize("which", ["full", "hostile"])
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_page_fits_the_browser_without_errors_or_requests(browser, request, tmp_path, which, width, scheme):
    (tmp_path / NOTES).write_text(HOSTILE + "\n" + "z" * 400, "utf-8")
    write_documents(request.getfixturevalue(which), tmp_path)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages, requests = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{tmp_path / PAGE}")
    assert messages == []
    assert requests == [f"file://{tmp_path / PAGE}"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("script").count() == 0
    wide = "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth).length"
    assert page.locator("section, p, li, pre, svg, blockquote, h1").evaluate_all(wide) == 0
    assert page.locator("svg.forest").evaluate("svg => svg.parentNode.clientWidth - svg.clientWidth") == 0
    letters = page.locator("svg.forest text").evaluate_all("all => all.map(text => getComputedStyle(text).fontSize)")
    assert {float(size.removesuffix("px")) >= 13 for size in letters} == {True}
    inside = """svg => { const frame = svg.getBoundingClientRect();
        const out = box => box.left < frame.left - 1 || box.right > frame.right + 1;
        return [...svg.querySelectorAll('text')].filter(text => out(text.getBoundingClientRect())).length }"""
    assert page.locator("svg.forest").evaluate(inside) == 0
    ink, ground = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    dark = lambda color: sum(map(int, re.findall(r"\d+", color)[:3])) < 384  # noqa: E731
    assert (dark(ink), dark(ground)) == (scheme == "light", scheme == "dark")
    context.close()


def test_figure_names_a_single_baseline(full):
    assert "top-1: difference from none, points" in figure(full)
    resize = synthetic_results.ablation("resize")
    assert "difference from its baseline" in figure(judged(resize, "laptop", {"stretch": 0.5}, [0], 100))
