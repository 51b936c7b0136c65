"""Precision and recall of suspected labels."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.label_issue_score import curve_chart, precision_at_recall, precision_recall, score_labels
from rp2k_lab.analysis.label_issues import LabelIssues
from rp2k_lab.config.schema import parse
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.evaluation.intervals import wilson_interval

SUSPICION = np.array([0.9, 0.8, 0.8, 0.5, 0.4, 0.0])
WRONG = np.array([True, False, True, False, True, True])


def test_precision_recall_by_hand():
    """Two images tie at 0.8: the list has both or none."""
    curve = precision_recall(SUSPICION, WRONG)
    assert curve["listed"].tolist() == [1, 3, 4, 5, 6]
    assert curve["found"].tolist() == [1, 2, 2, 3, 4]
    assert curve["suspicion"].tolist() == [0.9, 0.8, 0.5, 0.4, 0.0]
    np.testing.assert_allclose(curve["precision"], [1, 2 / 3, 2 / 4, 3 / 5, 4 / 6])
    np.testing.assert_allclose(curve["recall"], [0.25, 0.5, 0.5, 0.75, 1])
    assert tuple(curve[["low", "high"]].iloc[1]) == wilson_interval(2, 3)


def test_precision_at_recall_uses_the_shortest_list():
    best = precision_at_recall(precision_recall(SUSPICION, WRONG))
    assert (best.value, best.count) == (pytest.approx(2 / 3), 3)
    assert (best.low, best.high) == wilson_interval(2, 3)


def test_random_ranking_has_the_fraction_of_wrong_labels():
    rng = np.random.default_rng(0)
    wrong = rng.random(20_000) < 0.1
    assert precision_at_recall(precision_recall(rng.random(20_000), wrong)).value == pytest.approx(0.1, abs=0.01)


def test_chart_shows_the_curve_and_its_score():
    svg = curve_chart(precision_recall(SUSPICION, WRONG), 0.4)
    root = ET.fromstring(svg)
    assert root.attrib["viewBox"]
    curve = root.find(".//*[@class='curve']").attrib["d"]
    assert len(re.findall(r"[\d.]+ [\d.]+", curve)) == 4  # one point for each found error
    across = [float(point.split()[0]) for point in curve.removeprefix("M").split("L")]
    assert across == sorted(across)
    low, high = wilson_interval(2, 3)
    assert f"0.67 [{low:.2f}, {high:.2f}] at recall 0.5" in svg


@pytest.fixture(scope="module")
def shelf(compose, tmp_path_factory):
    """Return index, truth and configuration of a small shelf set with wrong labels in train."""
    import rp2k_lab.dataset.photo_index as module

    noise = ["dataset.label_noise=0.1", "dataset.classes=8", "dataset.train_images=120", "dataset.min_train_images=5"]
    sizes = ["dataset.val_images=16", "dataset.test_images=32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DATA_FOLDER", tmp_path_factory.mktemp("data"))
        config = parse(compose(*noise, *sizes))
        index = build_index(config.dataset)
        yield index, pd.read_parquet(index.root / "truth.parquet").set_index("path"), config


def ranking(index, truth, rows, correct_names=True):
    """Return a ranking by the truth, but with one correct label first, and the wrong labels."""
    wrong = truth.loc[rows["path"], "label_error"].to_numpy()
    suspicion = np.where(wrong, 0.7, 0.1).astype(np.float32)
    suspicion[np.flatnonzero(~wrong)[0]] = 0.9
    true = truth.loc[rows["path"], "true_class"].map(index.classes.index).to_numpy(np.int32)
    labels = rows["label"].to_numpy(np.int32)
    return LabelIssues(labels, true if correct_names else np.where(wrong, (true + 1) % 8, true), suspicion), wrong


def test_ranking_is_scored_against_the_truth(shelf):
    index, truth, _ = shelf
    rows = index.split("train")
    errors, wrong = ranking(index, truth, rows)
    score = score_labels(index, rows, errors)
    assert (score.images, score.wrong) == (120, 12)
    assert wrong.sum() == 12
    assert (score.precision.value, score.precision.count) == (pytest.approx(12 / 13), 13)
    assert (score.suggestion.value, score.suggestion.count) == (1.0, 12)
    assert score.curve["listed"].tolist() == [1, 13, 120]


def test_wrong_suggestions_lower_the_suggestion_score(shelf):
    index, truth, _ = shelf
    rows = index.split("train")
    errors, _ = ranking(index, truth, rows, correct_names=False)
    score = score_labels(index, rows, errors)
    assert score.precision.count == 13
    assert score.suggestion.value < 0.5


def test_no_score_without_wrong_labels(shelf):
    index, truth, _ = shelf
    rows = index.split("val")
    assert score_labels(index, rows, ranking(index, truth, rows)[0]) is None


def test_no_score_without_the_truth(shelf, tmp_path):
    index, truth, _ = shelf
    rows = index.split("train")
    errors, _ = ranking(index, truth, rows)
    other = type(index)(
        tmp_path, *(getattr(index, n) for n in ("table", "classes", "fingerprint", "version", "skipped"))
    )
    assert score_labels(other, rows, errors) is None


def test_correct_relabeling_leaves_no_wrong_label(shelf, tmp_path):
    _, truth, config = shelf
    planted = truth[truth["label_error"]].reset_index()
    table = planted.rename(columns={"given_class": "given", "true_class": "suggested"})
    table[["path", "given", "suggested"]].to_csv(tmp_path / "reviewed.csv", index=False)
    reviewed = config.dataset.model_copy(update={"relabel": tmp_path / "reviewed.csv"})
    rows = build_index(reviewed).split("train")
    assert rows["class"].tolist() == truth.loc[rows["path"], "true_class"].tolist()
    assert len(planted) == 12
