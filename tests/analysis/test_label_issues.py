"""Confident learning against the paper, cleanlab and planted errors."""

import tracemalloc

import numpy as np
import pandas as pd

from rp2k_lab.analysis import label_issues as module
from rp2k_lab.analysis.label_issues import find_label_issues, find_label_issues_in_top, spread
from rp2k_lab.evaluation.metrics import Predictions, top_k

# Thresholds by hand: 0.7, 0.6, 0.5 (means of 0.9 0.9 0.3, of 0.8 0.4, of 0.5).
LABELS = np.array([0, 0, 0, 1, 1, 2], np.int32)
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [0.3, 0.7, 0.0], [0.1, 0.8, 0.1], [0.35, 0.4, 0.25], [0.2, 0.3, 0.5]], np.float32
)
CLASSES = ["a", "b", "c"]


def noisy(images=3000, classes=12, fraction=0.05, seed=0):
    """Return (true, given, probabilities) of a network with 90 % accuracy and low confidence in its errors."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=images)
    wrong = rng.random(images) < fraction
    given = np.where(wrong, (true + rng.integers(1, classes, images)) % classes, true).astype(np.int32)
    seen = np.where(rng.random(images) < 0.9, true, rng.integers(classes, size=images))
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), seen] += np.where(seen == true, 5, 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return true, given, probabilities.astype(np.float32)


def test_confident_learning_by_hand():
    errors = find_label_issues(LABELS, PROBABILITIES)
    assert errors.suggested.tolist() == [0, 0, 1, 1, -1, 2]
    assert errors.suspected.tolist() == [False, False, True, False, False, False]
    assert errors.suggested_names(CLASSES).tolist() == ["", "", "b", "", "", ""]
    # (1 + largest other - given) / 2
    np.testing.assert_allclose(errors.suspicion, [0.1, 0.1, 0.7, 0.15, 0.475, 0.4], atol=1e-6)
    joint = errors.confident_joint(CLASSES)
    assert set(joint.itertuples(index=False, name=None)) == {("a", "a", 2), ("a", "b", 1), ("b", "b", 1), ("c", "c", 1)}


def test_confident_joint_equals_cleanlab():
    from cleanlab.count import compute_confident_joint

    _, given, probabilities = noisy()
    dense = compute_confident_joint(given, probabilities, calibrate=False)
    errors = find_label_issues(given, probabilities)
    joint = np.zeros_like(dense)
    known = errors.suggested >= 0
    np.add.at(joint, (given[known], errors.suggested[known]), 1)
    # cleanlab sets the diagonal to at least 1, which holds here for each class.
    assert np.array_equal(joint, dense)


def test_planted_errors_are_found_with_correct_suggestions():
    true, given, probabilities = noisy()
    errors = find_label_issues(given, probabilities)
    wrong = true != given
    listed = np.argsort(-errors.suspicion)[: wrong.sum()]
    assert wrong[listed].mean() > 0.8
    found = errors.suspected & wrong
    assert (errors.suggested[found] == true[found]).mean() > 0.95


def test_most_probable_label_is_not_suspected():
    """Off the diagonal: 0.55 is below the threshold of a (0.78), and 0.45 above the threshold of b (0.425)."""
    labels = np.array([0, 0, 0, 1, 1], np.int32)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.55, 0.45]], np.float32)
    errors = find_label_issues(labels, probabilities)
    assert errors.suggested.tolist() == [0, 0, 1, -1, 1]
    assert not errors.suspected.any()
    assert errors.suspicion[2] < 0.5 < errors.suspicion[3]


def test_batch_size_does_not_matter(monkeypatch):
    _, given, probabilities = noisy(500)
    whole = find_label_issues(given, probabilities)
    monkeypatch.setattr(module, "_BATCH_BYTES", 4 * probabilities.shape[1] * 7)
    parts = find_label_issues(given, probabilities)
    assert np.array_equal(whole.suggested, parts.suggested)
    np.testing.assert_allclose(whole.suspicion, parts.suspicion, atol=1e-6)


def test_images_that_were_never_held_out_get_no_suggestion():
    _, given, probabilities = noisy(500)
    out = np.arange(0, 500, 3)
    with_holes = probabilities.copy()
    with_holes[out] = np.nan
    errors = find_label_issues(given, with_holes)
    rest = np.setdiff1d(np.arange(500), out)
    alone = find_label_issues(given[rest], probabilities[rest])
    assert (errors.suggested[out] == -1).all()
    assert (errors.suspicion[out] == 0).all()
    assert np.array_equal(errors.suspicion[rest], alone.suspicion)


def test_class_without_images_is_never_suggested():
    labels = np.array([0, 0, 1, 1], np.int32)
    probabilities = np.array([[0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], np.float32)
    assert find_label_issues(labels, probabilities).suggested.tolist() == [0, -1, 1, -1]


def test_no_images():
    errors = find_label_issues(np.zeros(0, np.int32), np.zeros((0, 3), np.float32))
    assert len(errors.suspicion) == len(errors.suggested) == 0


def test_list_is_ranked_by_suspicion():
    _, given, probabilities = noisy()
    classes = [f"c{i}" for i in range(12)]
    rows = pd.DataFrame({"path": [f"{i}.jpg" for i in range(3000)], "row": np.arange(3000) + 7, "label": given})
    errors = find_label_issues(given, probabilities)
    table = errors.ranked(rows, classes)
    assert table.columns.tolist() == ["path", "row", "given", "suggested", "score"]
    assert len(table) == errors.suspected.sum() > 50
    assert table["score"].is_monotonic_decreasing
    assert (table["given"] != table["suggested"]).all()
    positions = table["row"].to_numpy() - 7
    assert table["path"].tolist() == [f"{i}.jpg" for i in positions]
    assert table["given"].tolist() == [classes[i] for i in given[positions]]
    assert table["suggested"].tolist() == [classes[i] for i in errors.suggested[positions]]


def test_five_probabilities_suffice():
    _, given, probabilities = noisy()
    whole = find_label_issues(given, probabilities)
    stored = find_label_issues_in_top(Predictions(given, *top_k(probabilities)), 12)
    assert (whole.suggested == stored.suggested).mean() > 0.99
    assert np.corrcoef(whole.suspicion, stored.suspicion)[0, 1] > 0.99


def test_remaining_probability_is_spread_over_other_classes():
    dense = spread(np.array([[3, 1], [0, 2]], np.int32), np.array([[0.5, 0.3], [0.9, 0.04]], np.float32), 4)
    np.testing.assert_allclose(dense, [[0.1, 0.3, 0.1, 0.5], [0.9, 0.03, 0.04, 0.03]], atol=1e-6)


def test_nothing_remains_if_all_classes_are_listed():
    dense = spread(np.array([[1, 0]], np.int32), np.array([[0.7, 0.3]], np.float32), 2)
    np.testing.assert_allclose(dense, [[0.3, 0.7]])


def test_memory_for_rp2ks_test_split():
    """All probabilities at once would take 373 MB."""
    images, rng = 39_027, np.random.default_rng(0)
    labels = rng.integers(2388, size=images).astype(np.int32)
    top = np.stack([(labels + i * (1 + labels % 3)) % 2388 for i in range(5)], axis=1).astype(np.int32)
    predictions = Predictions(labels, top, np.tile(np.float32([0.6, 0.2, 0.05, 0.02, 0.01]), (images, 1)))
    find_label_issues_in_top(Predictions(labels[:9], top[:9], predictions.top_probabilities[:9]), 2388)  # imports
    tracemalloc.start()
    errors = find_label_issues_in_top(predictions, 2388)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(errors.suspicion) == images
    assert peak < 200e6
