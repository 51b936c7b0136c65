"""The cause `photo` against a shelf set's truth."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.redraw_check import clean_batches, photo_score, read_truth, recognized_clean, score_photo
from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.evaluation.predictor import Preprocessing

WAY = Preprocessing((56, 56), "letterbox", 0.875)
FEW = {"classes": 4, "train_images": 8, "val_images": 0, "test_images": 20, "min_train_images": 1, "min_test_images": 1}


class Says:
    """A predictor that gives what it is told to, and remembers what it was shown."""

    preprocessings = (WAY,)

    def __init__(self, labels):
        self.labels, self.seen = np.asarray(labels), []

    def __call__(self, batches):
        first = 0
        for (images,) in batches:
            self.seen += list(images)
            yield None, np.eye(4)[self.labels[first : first + len(images)]]
            first += len(images)


def shelf(folder, **changes):
    """(root, options, the truth of test)."""
    root = make_shelf(ShelfOptions(**FEW | changes), folder, workers=1, progress=False)
    options, truth = read_truth(root)
    return root, options, truth[truth["split"] == "test"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Every photo blurred and seen at an angle; some test labels are wrong."""
    changes = {"blur_fraction": 1.0, "angle_fraction": 1.0, "label_noise": 0.2, "noisy_splits": ("test",)}
    return shelf(tmp_path_factory.mktemp("noisy"), **changes)


def test_with_nothing_left_out_it_is_what_evaluation_shows(noisy):
    root, options, truth = noisy
    drawn = np.concatenate([images for (images,) in clean_batches(options, truth, (), WAY, 8)])
    files = [pad_to_center(read_resized(root / path, WAY.resized, "letterbox"), WAY.resized, WAY.size)
             for path in truth["path"]]  # fmt: skip
    np.testing.assert_array_equal(drawn, np.stack(files))


def test_recognized_means_the_true_class_whatever_the_label(noisy):
    _, options, truth = noisy
    classes = sorted(set(truth["true_class"]))
    wrong_label = truth["label_error"].to_numpy()
    assert 0 < wrong_label.sum() < len(truth)
    says_true, says_given = (
        Says([classes.index(name) for name in truth[column]]) for column in ("true_class", "given_class")
    )
    assert recognized_clean(says_true, classes, options, truth, ("blur",), 8).all()
    np.testing.assert_array_equal(recognized_clean(says_given, classes, options, truth, ("blur",), 8), ~wrong_label)
    assert recognized_clean(says_true, classes, options, truth[:0], ("blur",), 8).shape == (0,)


def test_errors_with_a_right_label_are_scored_once_without_what_is_measured_once_without_all(noisy):
    root, _, truth = noisy
    classes = sorted(set(truth["true_class"]))
    cases = pd.DataFrame({"path": truth["path"].tolist(), "correct": False, "cause_photo": True})
    cases.loc[:3, "correct"] = True
    judged = cases[~cases["correct"]]["path"]
    right = truth.loc[judged][~truth.loc[judged, "label_error"]]
    predictor = Says([classes.index(name) for name in right["true_class"]])
    found = photo_score(predictor, classes, cases, root, 8).set_index("left_out")
    assert found.index.tolist() == ["measured", "all"]
    assert found["errors"].tolist() == found["fault"].tolist() == found["flagged"].tolist() == [len(right)] * 2
    assert found["precision"].tolist() == found["recall"].tolist() == [1, 1]
    # The angle stays in the first drawing of each and is gone in the second.
    first, second = np.split(np.stack(predictor.seen), 2)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


def test_another_data_set_has_no_such_truth(tmp_path):
    assert photo_score(Says([]), [], pd.DataFrame(), tmp_path, 8) is None


def test_precision_is_of_the_flagged_and_recall_of_the_faults():
    flagged = np.array([True, True, True, True, False, False])
    fault = np.array([True, True, True, False, True, False])
    found = score_photo(flagged, fault)
    assert {k: found[k] for k in ("errors", "fault", "flagged", "both")} == dict(errors=6, fault=4, flagged=4, both=3)
    assert (found["precision"], found["recall"], found["fault_share"]) == (3 / 4, 3 / 4, 4 / 6)
    assert found["precision_low"] < 3 / 4 < found["precision_high"]


@pytest.mark.parametrize("errors", [0, 3])
def test_a_share_of_nothing_is_unknown(errors):
    found = score_photo(np.zeros(errors, bool), np.zeros(errors, bool))
    assert np.isnan(found["precision"])
    assert (found["recall_low"], found["recall_high"]) == (0, 1)
