"""Mix pairs of a batch's images and labels: image i with the original image n - 1 - i.

The papers draw one weight per batch and mix with a random permutation.  Here each image draws a weight from a separate
generator, so that a batch does not depend on threads; its partner is random since the batch's order is.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

Mix = Callable[[np.ndarray, Sequence[np.random.Generator]], tuple[np.ndarray, np.ndarray]]


class Mixup:
    """Blend two images with a weight from Beta(alpha, alpha): Zhang et al., arXiv 1710.09412, section 2.

    Takes images uint8 (n, height, width, 3) and a generator per image.  Returns new images of the same shape and the
    weight of each original image, float32 (n,), 0 to 1.
    """

    def __init__(self, alpha: float):
        self.alpha = alpha

    def __call__(self, images: np.ndarray, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
        weights = np.array([rng.beta(self.alpha, self.alpha) for rng in rngs], np.float32)
        mixed = np.empty_like(images)
        for image, partner, weight, target in zip(images, images[::-1], weights.tolist(), mixed, strict=True):
            cv2.addWeighted(image, weight, partner, 1 - weight, 0, target)
        return mixed, weights


class CutMix:
    """Paste a rectangle of the partner with probability `p`: Yun et al., arXiv 1905.04899, section 3.1.

    The rectangle has the image's proportions and 1 - Beta(alpha, alpha) of its area; its center is anywhere, so the
    border may cut it.  Arguments and results: see `Mixup`; the weight is the fraction of original pixels.
    """

    def __init__(self, alpha: float, p: float):
        self.alpha, self.p = alpha, p

    def __call__(self, images: np.ndarray, rngs: Sequence[np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
        mixed, weights = images.copy(), np.ones(len(images), np.float32)
        for i, (partner, rng) in enumerate(zip(images[::-1], rngs, strict=True)):
            rows, columns = self._box(partner.shape[0], partner.shape[1], rng)
            mixed[i, rows, columns] = partner[rows, columns]
            weights[i] -= (rows.stop - rows.start) * (columns.stop - columns.start) / partner[..., 0].size
        return mixed, weights

    def _box(self, image_height, image_width, rng):
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        drawn, down, right = rng.random(3).tolist()
        height, width = (round(side * image_height), round(side * image_width)) if drawn < self.p else (0, 0)
        top, left = int(down * image_height) - height // 2, int(right * image_width) - width // 2
        rows = slice(max(0, top), min(image_height, top + height))
        return rows, slice(max(0, left), min(image_width, left + width))


def soft_targets(labels: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the mixed one-hot targets of a mixed batch.

    Args:
        labels: int32 (n,); the partner of i is n - 1 - i.
        weights: float32 (n,), the weight of each original image, 0 to 1.

    Returns:
        float32 (n, num_classes); each row sums to 1.
    """
    targets, rows = np.zeros((len(labels), num_classes), np.float32), np.arange(len(labels))
    targets[rows, labels] = weights
    targets[rows, labels[::-1]] += 1 - weights
    return targets
