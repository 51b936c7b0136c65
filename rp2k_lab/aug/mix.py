"""Two images of a batch, and their labels, become one: image i with image n - 1 - i as it was before.

The papers draw one share a batch and mix with a random permutation.  Here each image draws its own from its own
generator, so that a batch is the same whatever makes it; its partner is random since the batch's order is.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

Mix = Callable[[np.ndarray, Sequence[np.random.Generator]], tuple[np.ndarray, np.ndarray]]


class Mixup:
    """Zhang et al., arXiv 1710.09412, section 2: images blended with a share drawn from Beta(alpha, alpha).

    Called with images uint8 (n, height, width, 3), left as they are, and a generator an image.  Returns new images of
    the same shape and each image's own share, float32 (n,) in 0 to 1.
    """

    def __init__(self, alpha):
        self.alpha = alpha

    def __call__(self, images, rngs):
        shares = np.array([rng.beta(self.alpha, self.alpha) for rng in rngs], np.float32)
        mixed = np.empty_like(images)
        for image, partner, share, target in zip(images, images[::-1], shares.tolist(), mixed, strict=True):
            cv2.addWeighted(image, share, partner, 1 - share, 0, target)
        return mixed, shares


class CutMix:
    """Yun et al., arXiv 1905.04899, section 3.1: a rectangle of the partner with probability `p`.

    The rectangle has the image's proportions and 1 - Beta(alpha, alpha) of its area; its center is anywhere, so it may
    be cut by the border.  Called as `Mixup` is; the share is that of the pixels that remained.
    """

    def __init__(self, alpha, p):
        self.alpha, self.p = alpha, p

    def __call__(self, images, rngs):
        mixed, shares = images.copy(), np.ones(len(images), np.float32)
        for i, (partner, rng) in enumerate(zip(images[::-1], rngs, strict=True)):
            rows, columns = self._box(*partner.shape[:2], rng)
            mixed[i, rows, columns] = partner[rows, columns]
            shares[i] -= (rows.stop - rows.start) * (columns.stop - columns.start) / partner[..., 0].size
        return mixed, shares

    def _box(self, image_height, image_width, rng):
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        drawn, down, right = rng.random(3).tolist()
        height, width = (round(side * image_height), round(side * image_width)) if drawn < self.p else (0, 0)
        top, left = int(down * image_height) - height // 2, int(right * image_width) - width // 2
        rows = slice(max(0, top), min(image_height, top + height))
        return rows, slice(max(0, left), min(image_width, left + width))


def soft_targets(labels: np.ndarray, shares: np.ndarray, num_classes: int) -> np.ndarray:
    """The mixed one-hot rows of a mixed batch.

    Args:
        labels: int32 (n,); the partner of i is n - 1 - i.
        shares: float32 (n,), the part of each image's own label, 0 to 1.

    Returns:
        float32 (n, num_classes); each row sums to 1.
    """
    targets, rows = np.zeros((len(labels), num_classes), np.float32), np.arange(len(labels))
    targets[rows, labels] = shares
    targets[rows, labels[::-1]] += 1 - shares
    return targets
