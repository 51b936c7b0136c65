"""Expected accuracy, forgetting, unlisted products and the photos-needed curve on synthetic features."""

import numpy as np
import pytest

from rp2k_lab.enrollment.outlook import expected_accuracies, forgetting, photos_curve, unlisted
from rp2k_lab.extension.extension_file import Enrolled, Extension
from rp2k_lab.extension.gallery import answer, build_gallery, fit_whitening
from tests.helpers.extensions import extension_of

COUNT, WIDTH = 20, 32


def features(label: np.ndarray, noise: float, seed: int) -> np.ndarray:
    means = np.random.default_rng(0).normal(size=(COUNT + 5, WIDTH))
    return (means[label] + noise * np.random.default_rng(seed).normal(size=(len(label), WIDTH))).astype(np.float32)


@pytest.fixture(scope="module", params=[0.3, 1.2])
def base(request):
    """(extension of 20 classes, (train features, labels), (val vectors, labels)) at this noise."""
    train_labels, val_labels = np.repeat(np.arange(COUNT), 25), np.repeat(np.arange(COUNT), 10)
    train = features(train_labels, request.param, 1)
    whitening = fit_whitening(train, train_labels)
    gallery = build_gallery(whitening(train), train_labels)
    val = whitening(features(val_labels, request.param, 2))
    answers = answer(gallery, val, val_labels)
    classes = tuple(f"c{i}" for i in range(COUNT))
    scores = {"val_scores": np.sort(answers.scores), "val_hidden": np.sort(answers.hidden_scores)}
    extension = extension_of(classes, gallery, whitening, **scores)
    return extension, (train, train_labels), (val, val_labels), request.param


def enrolled(extension: Extension, noise: float, photos: int) -> Extension:
    vectors = extension.whitening(features(np.full(photos, COUNT), noise, 3))
    shas = tuple(f"{i:03}" for i in range(photos))
    return extension.enroll(["new"], Enrolled(vectors, np.full(photos, COUNT, np.int32), shas))


def test_expected_accuracy_leaves_each_photo_out(base):
    extension, _, _, noise = base
    assert expected_accuracies(enrolled(extension, noise, 1), [COUNT])[COUNT] is None
    score = expected_accuracies(enrolled(extension, noise, 5), [COUNT])[COUNT]
    assert score is not None
    assert score.count == 5
    if noise < 1:
        assert score.value == 1
    # Photos of five different products recognize each other less.
    mixed = extension.whitening(features(np.arange(COUNT, COUNT + 5), noise, 3))
    odd = extension.enroll(["odd"], Enrolled(mixed, np.full(5, COUNT, np.int32), ("a", "b", "c", "d", "e")))
    assert expected_accuracies(odd, [COUNT])[COUNT].value < score.value


def test_forgetting_counts_what_new_products_take():
    new = np.array([False, False, True])
    before, after = np.array([0, 0, 1, 1, 0]), np.array([0, 2, 2, 1, 0])
    change = forgetting(before, after, np.array([0, 0, 0, 1, -1]), new)
    assert (change.stolen, change.lost) == (2, 1)
    assert (change.before.value, change.after.value, change.after.count) == (0.75, 0.5, 4)
    assert forgetting(before, after, np.full(5, -1), new) is None


def test_unlisted_products_by_leave_one_class_out(base):
    extension, _, (val, labels), noise = base
    measures = unlisted(extension, answer(extension.gallery, val, labels), labels, 0.1)
    assert measures.refused.value == pytest.approx(0.1, abs=0.006)  # the threshold comes from the same images
    assert measures.refused.count == measures.accepted.count == len(val)
    assert measures.auroc.value > (0.999 if noise < 1 else 0.6)
    assert measures.auroc.low <= measures.auroc.value <= measures.auroc.high
    # Real unlisted products are accepted about as often.
    strangers = extension.whitening(features(np.repeat(np.arange(COUNT, COUNT + 5), 60), noise, 5))
    accepted = (extension.gallery.scores(strangers).max(axis=1) > np.quantile(extension.val_scores, 0.1)).mean()
    assert measures.accepted.value == pytest.approx(accepted, abs=0.15)


def test_more_photos_are_better(base):
    extension, train, val, _ = base
    val = *val, answer(extension.gallery, *val).hidden_scores
    curve = photos_curve(extension, train, val, lambda: None)
    assert [point.photos for point in curve] == [1, 2, 3, 5, 10, 20]
    values = [point.accuracy.value for point in curve]
    assert values[-1] >= values[0]
    assert all(point.accuracy.low <= point.accuracy.value <= point.accuracy.high for point in curve)
    assert all(point.accuracy.count == COUNT for point in curve)
    again = photos_curve(extension, train, val, lambda: None)
    assert [point.accuracy.value for point in again] == values
