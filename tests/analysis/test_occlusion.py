"""Occlusion against a linear network."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.analysis.occlusion import GRID, WINDOW, Occlusion, cover_windows

GRAY = np.array([100, 110, 120], np.uint8)


def test_each_window_is_covered_in_turn():
    image = np.full((56, 28, 3), 200, np.uint8)
    views = cover_windows(image, GRAY)
    assert (views.shape, views.dtype) == ((GRID**2, 56, 28, 3), np.uint8)
    covered = (views == GRAY).all(-1)
    assert (views[~covered] == 200).all()
    for i, window in enumerate(covered):
        rows, columns = np.nonzero(window)
        center = (rows.mean() + 0.5) / 56, (columns.mean() + 0.5) / 28
        middle = (i // GRID + 0.5) / GRID, (i % GRID + 0.5) / GRID
        np.testing.assert_allclose(center, middle, atol=0.04)  # the image border cuts the outer ones
    assert covered[GRID**2 // 2].mean() == pytest.approx(WINDOW**2, abs=0.02)
    assert covered.any(0).all()


def test_padding_is_never_covered():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 8:24] = 200
    views = cover_windows(image, GRAY)
    assert not views[:, :, :8].any()
    assert not views[:, :, 24:].any()


class WeightedSum(nn.Cell):
    """Logits: the sum of an image's bytes / 1000, weighted by pixel, and its negative."""

    def __init__(self, weights):
        super().__init__()
        self.weights = Tensor(weights.astype(np.float32))

    def construct(self, images):
        total = (images.astype("float32").sum(-1) * self.weights).sum((1, 2)) / 1000
        return total.reshape(-1, 1) * Tensor(np.array([[1, -1]], np.float32))


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("batch_size", [7, 200])
def test_logit_drop_equals_numpy(batch_size):
    rng = np.random.default_rng(0)
    weights, images = rng.normal(size=(16, 20)), rng.integers(1, 256, (3, 16, 20, 3), np.uint8)
    labels = np.array([0, 1, 0])
    heats = Occlusion(WeightedSum(weights), GRAY, batch_size)(images, labels)
    for image, label, heat in zip(images, labels, heats, strict=True):
        change = (cover_windows(image, GRAY).astype(float) - image).sum(-1)
        expected = np.maximum(-(change * weights).sum((1, 2)) / 1000 * (1, -1)[label], 0)
        np.testing.assert_allclose(heat.ravel(), expected, atol=1e-3)
        assert 5 < (expected > 0.01).sum() < GRID**2 - 5
    assert heats.dtype == np.float32
