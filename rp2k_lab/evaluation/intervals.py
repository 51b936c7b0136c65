"""Confidence intervals of counted fractions."""

import math

import numpy as np

Z95 = 1.959963984540054


def wilson_interval(correct: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Confidence interval of a share (Wilson, JASA 22, 1927); (0, 1) where nothing was counted.

    It stays within [0, 1] and keeps its coverage for small counts and shares near 1, where ± 1.96 standard errors
    does not.
    """
    if count == 0:
        return 0.0, 1.0
    share, z2 = correct / count, z * z
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At 0 and at all the bound is exact; rounding must not push it past the share.
    return min(share, max(0.0, center - half)), max(share, min(1.0, center + half))


def macro_interval(correct: np.ndarray, count: np.ndarray, z: float = Z95) -> tuple[float, float]:
    """Confidence interval of the mean over classes of each class's accuracy; classes without images are left out.

    Each class's accuracy is drawn towards their mean with the weight of two images before its variance is taken: the
    plain variance of a class of one image, as the tail has them, is always zero.

    Args:
        correct, count: int (classes,).
    """
    correct, count = np.asarray(correct, float)[count > 0], np.asarray(count, float)[count > 0]
    if len(count) == 0:
        return 0.0, 1.0
    center = (correct / count).mean()
    mean = (center * len(count) + 0.5) / (len(count) + 1)  # never quite 0 or 1
    share = (correct + 2 * mean) / (count + 2)
    half = z * math.sqrt((share * (1 - share) / count).sum()) / len(count)
    return max(0.0, center - half), min(1.0, center + half)
