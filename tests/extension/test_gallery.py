"""Whitening, centers and cosines against plain linear algebra."""

import numpy as np
import pytest

from rp2k_lab.extension.gallery import (
    MAX_CENTERS,
    Gallery,
    answer,
    build_gallery,
    class_centers,
    fit_whitening,
    join_galleries,
    unit,
)


@pytest.fixture(scope="module")
def data():
    """Twelve classes of 3 to 40 images around their means, width 24: (features, labels)."""
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 40, 12)
    means = rng.normal(size=(12, 24)) * 3
    mixing = rng.normal(size=(24, 24))
    labels = np.repeat(np.arange(12), counts)
    features = means[labels] + rng.normal(size=(len(labels), 24)) @ mixing
    order = rng.permutation(len(labels))
    return features[order].astype(np.float32), labels[order]


def test_whitening_makes_the_shrunk_covariance_the_identity(data):
    features, labels = data
    whitening = fit_whitening(features, labels, shrinkage=0.1)
    wide = features.astype(np.float64)
    centered = np.concatenate([wide[labels == c] - wide[labels == c].mean(axis=0) for c in range(12)])
    covariance = centered.T @ centered / (len(wide) - 12)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 24 * np.eye(24)
    matrix = whitening.matrix.astype(np.float64)
    np.testing.assert_allclose(matrix.T @ shrunk @ matrix, np.eye(24), atol=1e-4)
    np.testing.assert_allclose(whitening.mean, wide.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whitening(features), axis=1), 1, atol=1e-6)


def test_whitening_is_the_same_by_blocks(data, monkeypatch):
    whole = fit_whitening(*data)
    monkeypatch.setattr("rp2k_lab.extension.gallery._ROWS", 7)
    np.testing.assert_allclose(fit_whitening(*data).matrix, whole.matrix, atol=1e-5)


def test_whitening_of_single_images_and_of_nan():
    lone = np.eye(4, dtype=np.float32)
    assert np.isfinite(fit_whitening(lone, np.arange(4))(lone)).all()
    with pytest.raises(ValueError, match="NaN"):
        fit_whitening(np.full((4, 3), np.nan, np.float32), np.array([0, 0, 1, 1]))


def test_few_images_are_their_own_centers_and_many_are_joined():
    rng = np.random.default_rng(1)
    few = unit(rng.normal(size=(MAX_CENTERS, 8)).astype(np.float32))
    assert class_centers(few) is few
    poles = unit(rng.normal(size=(MAX_CENTERS, 8)).astype(np.float32))
    many = unit(np.repeat(poles, 20, axis=0) + rng.normal(size=(100, 8)).astype(np.float32) * 0.02)
    centers = class_centers(many)
    assert centers.shape == (MAX_CENTERS, 8)
    assert ((centers @ poles.T).max(axis=0) > 0.999).all()  # each pole has its center
    assert (class_centers(many) == centers).all()


def test_centers_of_copies_are_finite():
    copies = np.repeat(unit(np.ones((1, 6), np.float32)), 30, axis=0)
    np.testing.assert_allclose(class_centers(copies), copies[:MAX_CENTERS], atol=1e-6)


def test_scores_are_the_largest_cosine_of_each_class(data):
    features, labels = data
    vectors = unit(features)
    gallery = build_gallery(vectors, labels)
    expected = [(vectors @ gallery.centers[gallery.labels == c].T).max(axis=1) for c in range(12)]
    np.testing.assert_allclose(gallery.scores(vectors), np.stack(expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 31])
@pytest.mark.parametrize("width", [24, 64, 512])
def test_more_classes_move_no_bit_of_the_old_scores(batch, width):
    rng = np.random.default_rng(2)
    draw = lambda count: unit(rng.normal(size=(count, width)).astype(np.float32))  # noqa: E731
    old = Gallery(draw(83), np.arange(83, dtype=np.int32))
    vectors = draw(batch)
    for added in (1, 2, 13, 700):
        joined = join_galleries([old, Gallery(draw(added), np.arange(added, dtype=np.int32))])
        assert (joined.scores(vectors)[:, :83] == old.scores(vectors)).all()


def test_answers_hide_the_own_class(data):
    features, labels = data
    vectors = unit(features)
    gallery = build_gallery(vectors, labels)
    true = labels.copy()
    true[:5] = -1
    answers, scores = answer(gallery, vectors, true), gallery.scores(vectors)
    np.testing.assert_array_equal(answers.scores, scores.max(axis=1))
    assert (answers.hidden_scores[:5] == answers.scores[:5]).all()
    scores[np.arange(5, len(true)), true[5:]] = -np.inf
    np.testing.assert_array_equal(answers.hidden_scores[5:], scores[5:].max(axis=1))
