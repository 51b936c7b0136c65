"""Nearest training images and class means, against the full matrix."""

import numpy as np
import pytest

from rp2k_lab.analysis import neighbors
from rp2k_lab.analysis.neighbors import class_means, nearest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(neighbors, "_IMAGES", 7)
    monkeypatch.setattr(neighbors, "_TRAINING_IMAGES", 5)


def random_features(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    return unit(a.astype(np.float64)) @ unit(b.astype(np.float64)).T


@pytest.mark.parametrize("training", [3, 5, 23])
def test_nearest_equals_the_full_matrix(training):
    features, training_features, checks = random_features(16, 0), random_features(training, 1), []
    positions, distances = nearest(features, training_features, 3, check=lambda: checks.append(1))
    whole = cosines(features, training_features)
    np.testing.assert_array_equal(positions, np.argsort(-whole, axis=1)[:, :3])
    np.testing.assert_allclose(distances, 1 - -np.sort(-whole, axis=1)[:, :3], atol=1e-6)
    assert distances.dtype == np.float32
    assert len(checks) == 3 * -(-training // 5)


def test_training_images_are_not_their_own_neighbors():
    training = random_features(12, 2)
    itself = np.array([11, 0, 6])
    positions, distances = nearest(training[itself], training, 2, itself)
    whole = cosines(training[itself], training)
    whole[[0, 1, 2], itself] = -np.inf
    np.testing.assert_array_equal(positions, np.argsort(-whole, axis=1)[:, :2])
    assert (distances > 1e-3).all()


def test_no_more_neighbors_than_training_images():
    assert nearest(random_features(4, 0), random_features(2, 1), 3)[0].shape == (4, 2)
    assert nearest(random_features(0, 0), random_features(5, 1), 3)[0].shape == (0, 3)


def test_class_means_are_centered_unit_vectors():
    features, labels = random_features(23, 3) + 10, np.arange(23) % 4
    means = np.stack([features[labels == i].mean(axis=0, dtype=np.float64) for i in range(4)])
    means -= means.mean(axis=0)
    result = class_means(features, labels, 4)
    np.testing.assert_allclose(result, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert result.dtype == np.float32
    # Without centering, any two features are near.
    assert cosines(features, features).min() > 0.9
    assert (result @ result.T).min() < 0


def test_class_without_images_has_nan_and_changes_no_other_mean():
    features, labels = random_features(10, 4), np.arange(10) % 2
    result = class_means(features, labels, 3)
    assert np.isnan(result[2]).all()
    np.testing.assert_array_equal(result[:2], class_means(features, labels, 2))
