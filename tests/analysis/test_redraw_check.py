"""The cause `photo` against redrawn images of a shelf set."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.redraw_check import clean_batches, photo_score, read_truth, recognized_clean, score_photo
from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.evaluation.predictor import Preprocessing

PREPROCESSING = Preprocessing((56, 56), "letterbox", 0.875)
FEW = {"classes": 4, "train_images": 8, "val_images": 0, "test_images": 20, "min_train_images": 1, "min_test_images": 1}


class FixedPredictor:
    """A predictor that returns given labels and records its images."""

    preprocessings = (PREPROCESSING,)

    def __init__(self, labels):
        self.labels, self.images = np.asarray(labels), []

    def __call__(self, batches):
        first = 0
        for (images,) in batches:
            self.images += list(images)
            yield None, np.eye(4)[self.labels[first : first + len(images)]]
            first += len(images)


def shelf(folder, **changes):
    """Return (root, options, truth of test)."""
    root = make_shelf(ShelfOptions(**FEW | changes), folder, num_processes=1)
    options, truth = read_truth(root)
    return root, options, truth[truth["split"] == "test"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A set with blur and an angle in every image and some wrong test labels."""
    changes = {"blur_fraction": 1.0, "angle_fraction": 1.0, "label_noise": 0.2, "noisy_splits": ("test",)}
    return shelf(tmp_path_factory.mktemp("noisy"), **changes)


def test_redrawing_with_all_nuisances_equals_the_files(noisy):
    root, options, truth = noisy
    redrawn = np.concatenate([images for (images,) in clean_batches(options, truth, (), PREPROCESSING, 8)])
    resized, size = PREPROCESSING.resized, PREPROCESSING.size
    files = [pad_to_center(read_resized(root / path, resized, "letterbox"), resized, size) for path in truth["path"]]
    np.testing.assert_array_equal(redrawn, np.stack(files))


def test_recognized_means_the_true_class_not_the_label(noisy):
    _, options, truth = noisy
    classes = sorted(set(truth["true_class"]))
    wrong_label = truth["label_error"].to_numpy()
    assert 0 < wrong_label.sum() < len(truth)
    predict_true, predict_given = (
        FixedPredictor([classes.index(name) for name in truth[column]]) for column in ("true_class", "given_class")
    )
    assert recognized_clean(predict_true, classes, options, truth, ("blur",), 8).all()
    np.testing.assert_array_equal(recognized_clean(predict_given, classes, options, truth, ("blur",), 8), ~wrong_label)
    assert recognized_clean(predict_true, classes, options, truth[:0], ("blur",), 8).shape == (0,)


def test_correctly_labeled_errors_are_scored_without_measured_and_without_all_nuisances(noisy):
    root, _, truth = noisy
    classes = sorted(set(truth["true_class"]))
    cases = pd.DataFrame({"path": truth["path"].tolist(), "correct": False, "cause_photo": True})
    cases.loc[:3, "correct"] = True
    judged = cases[~cases["correct"]]["path"]
    correctly_labeled = truth.loc[judged][~truth.loc[judged, "label_error"]]
    predictor = FixedPredictor([classes.index(name) for name in correctly_labeled["true_class"]])
    score = photo_score(predictor, classes, cases, root, 8).set_index("left_out")
    assert score.index.tolist() == ["measured", "all", "none"]
    assert (
        score["errors"].tolist() == score["fault"].tolist() == score["flagged"].tolist() == [len(correctly_labeled)] * 3
    )
    assert score["precision"].tolist() == score["recall"].tolist() == [1, 1, 1]
    # The first redrawing keeps the angle, the second removes it, the third is a near copy of the file.
    drawn = np.split(np.stack(predictor.images), 3)
    resized, size = PREPROCESSING.resized, PREPROCESSING.size
    files = [
        pad_to_center(read_resized(root / path, resized, "letterbox"), resized, size)
        for path in correctly_labeled["path"]
    ]
    first, second, third = (np.abs(each.astype(float) - np.stack(files)).mean(axis=(1, 2, 3)) for each in drawn)
    assert all((a != b).any() for a, b in zip(drawn[0], drawn[1], strict=True))
    assert (third > 0).all()
    assert third.mean() < min(first.mean(), second.mean())


def test_other_data_sets_have_no_score(tmp_path):
    assert photo_score(FixedPredictor([]), [], pd.DataFrame(), tmp_path, 8) is None


def test_precision_and_recall_of_flags():
    flagged = np.array([True, True, True, True, False, False])
    fault = np.array([True, True, True, False, True, False])
    score = score_photo(flagged, fault)
    assert {k: score[k] for k in ("errors", "fault", "flagged", "both")} == dict(errors=6, fault=4, flagged=4, both=3)
    assert (score["precision"], score["recall"], score["fault_share"]) == (3 / 4, 3 / 4, 4 / 6)
    assert score["precision_low"] < 3 / 4 < score["precision_high"]


@pytest.mark.parametrize("errors", [0, 3])
def test_zero_of_zero_is_nan(errors):
    score = score_photo(np.zeros(errors, bool), np.zeros(errors, bool))
    assert np.isnan(score["precision"])
    assert (score["recall_low"], score["recall_high"]) == (0, 1)
