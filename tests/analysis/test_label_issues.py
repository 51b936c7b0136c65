import tracemalloc

import numpy as np
import pandas as pd

from rp2k_lab.analysis import label_issues as module
from rp2k_lab.analysis.label_issues import find_label_issues, find_label_issues_in_top, spread
from rp2k_lab.evaluation.metrics import Predictions, top_k

# By hand: thresholds 0.7, 0.6 and 0.5 (means of 0.9 0.9 0.3, of 0.8 0.4, and of 0.5).
LABELS = np.array([0, 0, 0, 1, 1, 2], np.int32)
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.9, 0.0, 0.1], [0.3, 0.7, 0.0], [0.1, 0.8, 0.1], [0.35, 0.4, 0.25], [0.2, 0.3, 0.5]], np.float32
)
CLASSES = ["a", "b", "c"]


def noisy(photos=3000, classes=12, share=0.05, seed=0):
    """(true, given, probabilities) of a network that is right on 90 % of the photos and unsure of the rest."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=photos)
    wrong = rng.random(photos) < share
    given = np.where(wrong, (true + rng.integers(1, classes, photos)) % classes, true).astype(np.int32)
    seen = np.where(rng.random(photos) < 0.9, true, rng.integers(classes, size=photos))
    logits = rng.normal(size=(photos, classes))
    logits[np.arange(photos), seen] += np.where(seen == true, 5, 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return true, given, probabilities.astype(np.float32)


def test_the_papers_rule_by_hand():
    errors = find_label_issues(LABELS, PROBABILITIES)
    assert errors.suggested.tolist() == [0, 0, 1, 1, -1, 2]
    assert errors.suspected.tolist() == [False, False, True, False, False, False]
    assert errors.suggested_names(CLASSES).tolist() == ["", "", "b", "", "", ""]
    # (1 + largest other - given) / 2
    np.testing.assert_allclose(errors.suspicion, [0.1, 0.1, 0.7, 0.15, 0.475, 0.4], atol=1e-6)
    joint = errors.confident_joint(CLASSES)
    assert set(joint.itertuples(index=False, name=None)) == {("a", "a", 2), ("a", "b", 1), ("b", "b", 1), ("c", "c", 1)}


def test_the_joint_is_cleanlabs_dense_one():
    from cleanlab.count import compute_confident_joint

    _, given, probabilities = noisy()
    dense = compute_confident_joint(given, probabilities, calibrate=False)
    errors = find_label_issues(given, probabilities)
    ours = np.zeros_like(dense)
    known = errors.suggested >= 0
    np.add.at(ours, (given[known], errors.suggested[known]), 1)
    # cleanlab's has at least one on the diagonal, which each class has here.
    assert np.array_equal(ours, dense)


def test_planted_errors_are_found_and_rightly_renamed():
    true, given, probabilities = noisy()
    errors = find_label_issues(given, probabilities)
    wrong = true != given
    listed = np.argsort(-errors.suspicion)[: wrong.sum()]
    assert wrong[listed].mean() > 0.8
    found = errors.suspected & wrong
    assert (errors.suggested[found] == true[found]).mean() > 0.95


def test_a_label_that_is_the_most_probable_is_not_suspected():
    """Though it is off the diagonal: 0.55 is below the threshold of a, 0.78, and 0.45 above that of b, 0.425."""
    labels = np.array([0, 0, 0, 1, 1], np.int32)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.55, 0.45]], np.float32)
    errors = find_label_issues(labels, probabilities)
    assert errors.suggested.tolist() == [0, 0, 1, -1, 1]
    assert not errors.suspected.any()
    assert errors.suspicion[2] < 0.5 < errors.suspicion[3]


def test_batches_change_nothing(monkeypatch):
    _, given, probabilities = noisy(500)
    whole = find_label_issues(given, probabilities)
    monkeypatch.setattr(module, "_BATCH_BYTES", 4 * probabilities.shape[1] * 7)
    parts = find_label_issues(given, probabilities)
    assert np.array_equal(whole.suggested, parts.suggested)
    np.testing.assert_allclose(whole.suspicion, parts.suspicion, atol=1e-6)


def test_nothing_is_said_of_photos_that_were_never_held_out():
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


def test_a_class_without_photos_is_never_suggested():
    labels = np.array([0, 0, 1, 1], np.int32)
    probabilities = np.array([[0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]], np.float32)
    assert find_label_issues(labels, probabilities).suggested.tolist() == [0, -1, 1, -1]


def test_without_photos():
    errors = find_label_issues(np.zeros(0, np.int32), np.zeros((0, 3), np.float32))
    assert len(errors.suspicion) == len(errors.suggested) == 0


def test_the_list_is_ranked():
    _, given, probabilities = noisy()
    classes = [f"c{i}" for i in range(12)]
    rows = pd.DataFrame({"path": [f"{i}.jpg" for i in range(3000)], "row": np.arange(3000) + 7, "label": given})
    errors = find_label_issues(given, probabilities)
    table = errors.ranked(rows, classes)
    assert table.columns.tolist() == ["path", "row", "given", "suggested", "score"]
    assert len(table) == errors.suspected.sum() > 50
    assert table["score"].is_monotonic_decreasing
    assert (table["given"] != table["suggested"]).all()
    places = table["row"].to_numpy() - 7
    assert table["path"].tolist() == [f"{i}.jpg" for i in places]
    assert table["given"].tolist() == [classes[i] for i in given[places]]
    assert table["suggested"].tolist() == [classes[i] for i in errors.suggested[places]]


def test_five_probabilities_of_a_photo_suffice():
    _, given, probabilities = noisy()
    whole = find_label_issues(given, probabilities)
    stored = find_label_issues_in_top(Predictions(given, *top_k(probabilities)), 12)
    assert (whole.suggested == stored.suggested).mean() > 0.99
    assert np.corrcoef(whole.suspicion, stored.suspicion)[0, 1] > 0.99


def test_what_five_leave_is_shared_out_among_the_others():
    dense = spread(np.array([[3, 1], [0, 2]], np.int32), np.array([[0.5, 0.3], [0.9, 0.04]], np.float32), 4)
    np.testing.assert_allclose(dense, [[0.1, 0.3, 0.1, 0.5], [0.9, 0.03, 0.04, 0.03]], atol=1e-6)


def test_all_classes_within_the_top_leave_nothing():
    dense = spread(np.array([[1, 0]], np.int32), np.array([[0.7, 0.3]], np.float32), 2)
    np.testing.assert_allclose(dense, [[0.3, 0.7]])


def test_rp2ks_test_split_takes_little_memory():
    """All probabilities at once would be 373 MB."""
    photos, rng = 39_027, np.random.default_rng(0)
    labels = rng.integers(2388, size=photos).astype(np.int32)
    top = np.stack([(labels + i * (1 + labels % 3)) % 2388 for i in range(5)], axis=1).astype(np.int32)
    predictions = Predictions(labels, top, np.tile(np.float32([0.6, 0.2, 0.05, 0.02, 0.01]), (photos, 1)))
    find_label_issues_in_top(Predictions(labels[:9], top[:9], predictions.top_probabilities[:9]), 2388)  # imports
    tracemalloc.start()
    errors = find_label_issues_in_top(predictions, 2388)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(errors.suspicion) == photos
    assert peak < 200e6
