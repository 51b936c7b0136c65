"""What batches are augmented with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rp2k_lab.aug.geometry import RandomResizedCrop

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
MixOperation = Callable[[np.ndarray, Sequence[np.random.Generator]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Augmentation:
    """The operations of a combination.

    Attributes:
        crop: the random crop from the resized image; None: evaluation's center crop.
        operations: applied to each crop, in order.
        mix: applied to each batch (mixup, CutMix), or None.
    """

    crop: RandomResizedCrop | None
    operations: tuple[Operation, ...]
    mix: MixOperation | None


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
