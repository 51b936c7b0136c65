import numpy as np
import pandas as pd
import pytest

from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.shelf.distributions import image_counts
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metrics import (
    Predictions,
    confusion_pairs,
    independent_units,
    per_class,
    predictions_table,
    scores,
    softmax,
    top_k,
    units_of_single_runs,
)

CLASSES = ["others", "可乐", "雪碧"]
TRAIN_COUNTS = np.array([100, 10, 1])


@pytest.fixture
def predictions():
    """Seven images, three classes; class 2 has no image.  Rows 0, 1 and 4 are correct."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1], np.int32)
    top_labels = np.array([[0, 1], [0, 1], [1, 0], [2, 1], [1, 0], [0, 1], [0, 2]], np.int32)
    return Predictions(labels, top_labels, np.tile(np.float32([0.6, 0.3]), (7, 1)))


@pytest.fixture
def table(predictions):
    return per_class(predictions, CLASSES, TRAIN_COUNTS)


def test_top_k_orders_by_probability():
    labels, probabilities = top_k(np.array([[0.1, 0.2, 0.05, 0.4, 0.15, 0.1]], np.float32))
    assert labels.tolist() == [[3, 1, 4, 0, 5]]
    np.testing.assert_array_equal(probabilities, np.float32([[0.4, 0.2, 0.15, 0.1, 0.1]]))
    assert labels.dtype == np.int32


def test_top_k_breaks_ties_by_label():
    assert top_k(np.full((2, 8), 0.125), 3)[0].tolist() == [[0, 1, 2]] * 2
    assert top_k(np.array([[0.2, 0.3, 0.2, 0.3]]), 4)[0].tolist() == [[1, 3, 0, 2]]


def test_top_k_returns_all_of_fewer_classes():
    labels, probabilities = top_k(np.array([[0.3, 0.7]]), 5)
    assert labels.tolist() == [[1, 0]]
    assert probabilities.tolist() == [[0.7, 0.3]]


def test_groups_of_few_classes_are_fractions_of_the_ranking():
    counts = np.random.default_rng(0).permutation(np.arange(40) * 3 + 5)
    groups, cuts = class_groups(counts)
    assert [int((groups == name).sum()) for name in ("head", "medium", "tail")] == [12, 16, 12]
    assert counts[groups == "head"].min() > counts[groups == "medium"].max()
    assert counts[groups == "medium"].min() > counts[groups == "tail"].max()
    assert "head 12 classes of 89–122" in cuts
    assert "tail 12 classes of 5–38" in cuts


def test_groups_at_rp2k_scale_are_cut_at_100_and_20_images():
    counts = np.resize([1, 19, 20, 100, 101, 9600], 2388)
    groups, cuts = class_groups(counts, (20, 100))
    assert groups[:6].tolist() == ["tail", "tail", "medium", "medium", "head", "head"]
    assert "100" in cuts
    assert "20" in cuts


def test_group_rule_changes_at_1000_classes():
    counts = np.linspace(30, 90, 1000).astype(int)
    assert set(class_groups(counts, (20, 100))[0]) == {"medium"}
    assert set(class_groups(counts[:999], (20, 100))[0]) == {"head", "medium", "tail"}


def test_other_data_are_ranked_whatever_their_size():
    assert set(class_groups(np.linspace(30, 90, 1000).astype(int))[0]) == {"head", "medium", "tail"}


@pytest.mark.parametrize("counts", [[7] * 10, [20, 21, 20, 19, 20, 21], [1, 2, 1, 2, 1], [50, 100, 75], [3], []])
def test_balanced_classes_are_one_group(counts):
    """A drawn val leaves equal classes a photo apart."""
    groups, cuts = class_groups(np.array(counts, int))
    assert set(groups) <= {"medium"}
    assert "head 0 classes of 0" in cuts
    assert "tail 0 classes of 0" in cuts


def test_classes_of_equal_size_are_in_one_group():
    """Whatever their names: the 20 smallest classes of the embedded set have 30 images each."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(1, rng.integers(3, 40), rng.integers(1, 60)) for _ in range(300)]
    for counts in (image_counts(ShelfOptions())["train"], *samples):
        groups = class_groups(counts)[0]
        assert all(len(set(groups[counts == count])) == 1 for count in set(counts.tolist())), counts
        order = rng.permutation(len(counts))
        assert class_groups(counts[order])[0].tolist() == groups[order].tolist()


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 1], "mmmmmmmmmt"),  # no head: 9 is nearer to the top
        ([99, 9, 9, 9, 9, 9, 9, 9, 9, 9], "hmmmmmmmmm"),  # no tail
        ([90, 80, 80, 80, 50, 40, 30, 20, 20, 10], "hhhhmmmttt"),
        ([90, 80, 70, 70, 50, 40, 20, 20, 20, 20], "hhmmmmtttt"),  # as near up as down: up
    ],
)
def test_a_border_within_equal_classes_moves_to_their_nearer_end(counts, groups):
    assert "".join(name[0] for name in class_groups(np.array(counts))[0]) == groups


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_groups_of_very_few_classes(classes):
    groups, cuts = class_groups(np.arange(classes) + 1)
    assert len(groups) == classes
    assert set(groups) <= {"head", "medium", "tail"}
    assert cuts


def test_groups_do_not_change_the_counts():
    counts = np.array([5, 3, 9])
    class_groups(counts)
    assert counts.tolist() == [5, 3, 9]


def test_per_class_by_hand(table):
    assert table["class"].tolist() == CLASSES
    assert table["label"].tolist() == [0, 1, 2]
    assert table["train_images"].tolist() == [100, 10, 1]
    assert table["images"].tolist() == [4, 3, 0]
    assert table["correct"].tolist() == [2, 1, 0]
    np.testing.assert_allclose(table["accuracy"], [0.5, 1 / 3, np.nan])
    assert table["group"].tolist() == ["head", "medium", "tail"]
    assert (table["low"][0], table["high"][0]) == wilson_interval(2, 4)
    assert (table["low"][2], table["high"][2]) == (0, 1)


def test_scores_by_hand(predictions, table):
    result = scores(predictions, table, "others")
    values = {name: (score.value, score.count) for name, score in result.items()}
    assert values == {
        "top1": (3 / 7, 7),
        "top5": (5 / 7, 7),
        "macro_top1": (pytest.approx((0.5 + 1 / 3) / 2), 7),
        "head_top1": (0.5, 4),
        "medium_top1": (pytest.approx(1 / 3), 3),
        "top1_without_others": (pytest.approx(1 / 3), 3),
    }
    assert (result["top1"].low, result["top1"].high) == wilson_interval(3, 7)
    assert all(0 <= score.low <= score.value <= score.high <= 1 for score in result.values())


@pytest.mark.parametrize("others", [None, "no such class"])
def test_no_score_without_a_catch_all_class(predictions, table, others):
    assert "top1_without_others" not in scores(predictions, table, others)


def test_split_of_the_catch_all_class_has_no_score_without_it():
    predictions = Predictions(np.zeros(2, np.int32), np.zeros((2, 1), np.int32), np.ones((2, 1), np.float32))
    table = per_class(predictions, CLASSES, TRAIN_COUNTS)
    assert "top1_without_others" not in scores(predictions, table, "others")


def test_split_without_images_has_no_scores():
    empty = Predictions(np.zeros(0, np.int32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
    assert scores(empty, per_class(empty, CLASSES, TRAIN_COUNTS), "others") == {}


def test_confusion_pairs_are_the_non_zero_cells(predictions):
    pairs = confusion_pairs(predictions, CLASSES)
    cells = {(true, predicted): count for true, predicted, count in pairs.to_numpy()}
    assert cells == {
        ("others", "others"): 2, ("others", "可乐"): 1, ("others", "雪碧"): 1,
        ("可乐", "others"): 2, ("可乐", "可乐"): 1,
    }  # fmt: skip
    assert pairs["count"].is_monotonic_decreasing
    assert pairs["count"].sum() == 7


def test_confusion_pairs_at_2388_classes_do_not_overflow():
    labels = np.array([2387, 2387], np.int32)
    predictions = Predictions(labels, np.array([[2386], [2387]], np.int32), np.ones((2, 1), np.float32))
    classes = [f"class {i}" for i in range(2388)]
    pairs = confusion_pairs(predictions, classes)
    assert pairs["true"].tolist() == ["class 2387"] * 2
    assert set(pairs["predicted"]) == {"class 2386", "class 2387"}


def test_predictions_table_by_hand(predictions):
    table = predictions_table(predictions, pd.DataFrame({"path": [f"{i}.jpg" for i in range(7)]}), CLASSES)
    assert list(table.columns) == ["path", "true", "correct", "top1", "p1", "top2", "p2"]
    assert table["path"].tolist() == [f"{i}.jpg" for i in range(7)]
    assert table["correct"].tolist() == [True, True, False, False, True, False, False]
    assert table.loc[3, ["true", "top1", "top2"]].tolist() == ["others", "雪碧", "可乐"]
    np.testing.assert_allclose(table["p1"], 0.6, rtol=1e-6)


def test_softmax_of_large_logits():
    logits = np.array([[[0, np.log(3)], [-1000, 1000]], [[1e4, 1e4], [5, 5]]])
    np.testing.assert_allclose(softmax(logits), [[[0.25, 0.75], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]])
    assert softmax(logits.astype(np.float32)).dtype == np.float32


def test_photos_of_a_group_count_as_one(caplog):
    images = pd.DataFrame({"path": ["a", "b", "c", "d"]})
    assert independent_units(images) is None
    assert independent_units(images.assign(group=["", "g", "g", ""])).tolist() == ["a", "g", "g", "d"]
    assert independent_units(images.assign(group="g")).tolist() == ["g"] * 4
    assert units_of_single_runs(images.assign(group=["", "g", "g", ""])).tolist() == ["a", "g", "g", "d"]
    assert not caplog.text
    assert units_of_single_runs(images.assign(group="g")) is None
    assert "all 4 photos are of the group g: intervals count them as independent" in caplog.text
