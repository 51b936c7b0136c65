"""Comparison of two runs: pairing by path, accuracies with intervals, differing settings."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.ablation.compare_runs import TestedRun, changed_images, compare, figure, grid, pair_document, summary
from rp2k_lab.ablation.wording import gain_text
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.pages.document import to_html, to_markdown
from rp2k_lab.pages.images import ImageEmbedder

GROUPS = {"big": "head", "middle": "medium", "small": "tail"}
TRUE = ["big"] * 60 + ["middle"] * 30 + ["small"] * 10


def run(reference, correct, true=TRUE, paths=None, **config):
    paths = [f"{i}.jpg" for i in range(len(true))] if paths is None else paths
    table = pd.DataFrame({"path": paths, "true": true, "correct": correct})
    return TestedRun(reference, f"name of {reference}", {"seed": 0, "aug.name": "none"} | config, table, GROUPS)


@pytest.fixture
def both():
    """Return two runs: 10 images are fixed (4 of them in the tail), 3 broken."""
    first, second = np.arange(100) % 2 == 0, np.arange(100) % 2 == 0
    second[[1, 3, 5, 61, 63, 65, 91, 93, 95, 97]] = True
    second[[0, 2, 60]] = False
    config = {"aug.name": "cutout", "aug.length": 14, "dataset.root": "/elsewhere", "tracking.uri": "x"}
    return run("a", first), run("b", second, **config)


def test_accuracies_match_a_calculation_by_hand(both):
    pair = compare(*both)
    assert (pair.images, pair.fixed, pair.broken) == (100, 10, 3)
    by_name = {accuracy.name: accuracy for accuracy in pair.accuracies}
    assert list(by_name) == ["top-1", "macro top-1", "head", "medium", "tail"]
    assert [accuracy.images for accuracy in pair.accuracies] == [100, 100, 60, 30, 10]
    assert (by_name["top-1"].first, by_name["top-1"].second) == (0.5, 0.57)
    assert by_name["head"].second - by_name["head"].first == pytest.approx(1 / 60)
    assert by_name["tail"].second == pytest.approx(0.9)
    assert by_name["macro top-1"].second - by_name["macro top-1"].first == pytest.approx((1 / 60 + 2 / 30 + 4 / 10) / 3)
    for accuracy in pair.accuracies:
        assert accuracy.verdict.value == pytest.approx(accuracy.second - accuracy.first)
        assert accuracy.verdict.low < accuracy.verdict.value < accuracy.verdict.high
        assert accuracy.verdict.word == ""  # one seed decides nothing
    assert summary(pair).endswith("between these two runs: 10 images fixed, 3 broken, of 100")


def test_differing_keys_exclude_those_of_the_machine(both):
    assert compare(*both).differing == {"aug.name": ("none", "cutout"), "aug.length": ("–", "14")}


def test_image_order_does_not_matter(both):
    first, second = both
    shuffled = second.predictions.sample(frac=1, random_state=0, ignore_index=True)
    other = TestedRun(second.reference, second.name, second.config, shuffled, second.groups)
    assert grid(compare(first, other)) == grid(compare(first, second))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(run("b", [True] * 99, TRUE[:99]), id="fewer"),
        pytest.param(run("b", [True] * 100, paths=[f"{i}.png" for i in range(100)]), id="other photos"),
        pytest.param(run("b", [True] * 100, [*TRUE[:-1], "big"]), id="other class"),
        pytest.param(run("b", [True] * 100, paths=["0.jpg"] * 100), id="one path"),
    ],
)
def test_different_test_sets_are_refused(both, other):
    for runs in ((both[0], other), (other, both[0])):
        with pytest.raises(
            RequestError, match=r"^runs=.*: tested on different photos .*\ncompare runs of one data set"
        ):
            compare(*runs)


def test_photos_of_a_group_count_as_one(both):
    """Wrong and right come in groups: the interval is wider, and the summary names the groups, of either record."""
    first, second = both
    groups = [f"g{i // 10}" for i in range(100)]
    alone = compare(first, second).accuracies[0].verdict
    for runs in ((first, replace(second, predictions=second.predictions.assign(group=groups))),
                 (replace(first, predictions=first.predictions.assign(group=groups)), second)):  # fmt: skip
        pair = compare(*runs)
        verdict = pair.accuracies[0].verdict
        assert (verdict.units, verdict.value) == (10, alone.value)
        assert verdict.high - verdict.low > alone.high - alone.low
        assert summary(pair).endswith("of 100 in 10 independent groups")
        assert gain_text(verdict).endswith("on 100 test photos of 10 independent groups")
        tail = pair.accuracies[-1]
        assert (tail.name, tail.images, tail.verdict) == ("tail", 10, None)  # of one group
        assert "one group" in figure(pair)


def test_a_group_of_one_image_has_no_interval():
    true = ["big"] * 5 + ["small"]
    pair = compare(run("a", [True] * 6, true), run("b", [False] + [True] * 5, true))
    assert {accuracy.name: accuracy.verdict is None for accuracy in pair.accuracies} == {
        "top-1": False, "macro top-1": False, "head": False, "tail": True}  # fmt: skip
    assert grid(pair).rows[-1][-1] == "–"
    assert "one image" in figure(pair)


def test_identical_runs_differ_in_nothing(both):
    pair = compare(both[0], run("b", both[0].predictions["correct"]))
    assert (pair.fixed, pair.broken, pair.differing) == (0, 0, {})
    assert "No key differs." in to_markdown(pair_document(pair, "figure.svg", None))


def test_documents_have_accuracies_settings_and_command(both):
    document = pair_document(compare(*both), "figure.svg", None)
    text, page = to_markdown(document), to_html(document)
    assert "| top-1 | 100 | 50.0 % | 57.0 % | +7.0 |" in text
    assert "| aug.name | none | cutout |" in text
    assert "    python run.py task=report 'runs=[a,b]'\n" in text
    for content in (text, page):
        assert "spread between seeds is not in them" in content
    assert "<svg" in page


def predicted(run, names, probabilities):
    """Return the run with its predictions recorded."""
    table = run.predictions.assign(top1=np.where(run.predictions["correct"], run.predictions["true"], names))
    return TestedRun(run.reference, run.name, run.config, table.assign(p1=probabilities), run.groups)


@pytest.fixture
def shown(both, tmp_path, write_photo):
    """The page of two runs whose photos are there, but for one."""
    for i in range(100):
        write_photo(tmp_path / f"{i}.jpg", 20 + i, 60, seed=i)
    (tmp_path / "93.jpg").unlink()
    name = "伊利安慕希瓶装芒果百香果风味酸奶家庭分享装限量版礼盒<b>"
    pair = compare(predicted(both[0], name, 0.4), predicted(both[1], name, np.linspace(0, 0.99, 100)))
    page = to_html(pair_document(pair, "figure.svg", ImageEmbedder(tmp_path)))
    (tmp_path / "report.html").write_text(page, "utf-8")
    return pair, tmp_path / "report.html"


def test_fixed_and_broken_photos_are_the_second_runs_most_confident_first(shown):
    fixed, broken = changed_images(shown[0])
    assert fixed["path"].tolist() == [f"{i}.jpg" for i in (97, 95, 93, 91, 65, 63, 61, 5, 3, 1)]
    assert broken["path"].tolist() == ["60.jpg", "2.jpg", "0.jpg"]
    assert set(broken["second"]) == {"伊利安慕希瓶装芒果百香果风味酸奶家庭分享装限量版礼盒<b>"}


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_browser_shows_the_fixed_and_broken_photos(browser, shown, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.goto(shown[1].as_uri())
    sections = page.locator("section", has=page.locator(".shots"))
    assert [text.split("\n")[0] for text in sections.all_inner_texts()] == ["Fixed: 10 photos", "Broken: 3 photos"]
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()  # they are loaded when they are near
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
    assert page.locator("img").count() == 12
    assert page.get_by_text("not readable").count() == 1
    assert re.search(r"second: big, 9\d\.\d %|second: small, 9\d\.\d %", sections.first.inner_text())
    wide = "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth).length"
    assert page.locator("section, figure, img, b, span").evaluate_all(wide) == 0
    assert messages == []
    context.close()


def test_photos_of_a_shelf_are_found_but_never_drawn(compose, data_folder):
    dataset = parse(compose()).dataset
    assert dataset.find_root() is None
    assert not data_folder.exists()
    folder = data_folder / f"shelf-{dataset._options().fingerprint()}"
    folder.mkdir(parents=True)
    assert dataset.find_root() == folder
