"""Nearest training photos and class means, against the plain matrix."""

import numpy as np
import pytest

from rp2k_lab.analysis import neighbors
from rp2k_lab.analysis.neighbors import class_means, nearest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(neighbors, "_PHOTOS", 7)
    monkeypatch.setattr(neighbors, "_TRAINING_PHOTOS", 5)


def drawn(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    return unit(a.astype(np.float64)) @ unit(b.astype(np.float64)).T


@pytest.mark.parametrize("training", [3, 5, 23])
def test_the_nearest_are_those_of_the_whole_matrix(training):
    ours, theirs, checks = drawn(16, 0), drawn(training, 1), []
    positions, distances = nearest(ours, theirs, 3, check=lambda: checks.append(1))
    whole = cosines(ours, theirs)
    np.testing.assert_array_equal(positions, np.argsort(-whole, axis=1)[:, :3])
    np.testing.assert_allclose(distances, 1 - -np.sort(-whole, axis=1)[:, :3], atol=1e-6)
    assert distances.dtype == np.float32
    assert len(checks) == 3 * -(-training // 5)


def test_a_training_photo_is_not_its_own_neighbor():
    training = drawn(12, 2)
    asked = np.array([11, 0, 6])
    positions, distances = nearest(training[asked], training, 2, asked)
    whole = cosines(training[asked], training)
    whole[[0, 1, 2], asked] = -np.inf
    np.testing.assert_array_equal(positions, np.argsort(-whole, axis=1)[:, :2])
    assert (distances > 1e-3).all()


def test_there_are_no_more_neighbors_than_training_photos():
    assert nearest(drawn(4, 0), drawn(2, 1), 3)[0].shape == (4, 2)
    assert nearest(drawn(0, 0), drawn(5, 1), 3)[0].shape == (0, 3)


def test_class_means_are_centered_and_of_length_1():
    features, labels = drawn(23, 3) + 10, np.arange(23) % 4
    means = np.stack([features[labels == i].mean(axis=0, dtype=np.float64) for i in range(4)])
    means -= means.mean(axis=0)
    found = class_means(features, labels, 4)
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert found.dtype == np.float32
    # Without the centring, what all share would make any two near.
    assert cosines(features, features).min() > 0.9
    assert (found @ found.T).min() < 0


def test_a_class_without_a_photo_has_no_mean_and_moves_none():
    features, labels = drawn(10, 4), np.arange(10) % 2
    found = class_means(features, labels, 3)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[:2], class_means(features, labels, 2))
