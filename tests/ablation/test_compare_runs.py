"""Comparison of two runs: pairing by path, accuracies with intervals, differing settings."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.ablation.compare_runs import TestedRun, compare, figure, grid, pair_document, summary
from rp2k_lab.core.errors import RequestError
from rp2k_lab.pages.document import to_html, to_markdown

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
