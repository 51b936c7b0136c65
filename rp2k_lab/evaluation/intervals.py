"""Confidence intervals of accuracies."""

import math

import numpy as np

Z95 = 1.959963984540054


def wilson_interval(correct: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Return the confidence interval of a fraction (Wilson, JASA 22, 1927); (0, 1) for a count of 0.

    It stays within [0, 1] and keeps its coverage for small counts and fractions near 1; ± 1.96 standard errors does
    not.
    """
    if count == 0:
        return 0.0, 1.0
    fraction, z2 = correct / count, z * z
    center = (fraction + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * math.sqrt(fraction * (1 - fraction) / count + z2 / (4 * count * count))
    # The bounds at 0 and 1 are exact; rounding must not push them past the fraction.
    return min(fraction, max(0.0, center - half)), max(fraction, min(1.0, center + half))


def macro_interval(correct: np.ndarray, count: np.ndarray, z: float = Z95) -> tuple[float, float]:
    """Return the confidence interval of the mean accuracy over classes; classes without images are left out.

    The variance of a class uses its accuracy shrunk towards the mean by two images: without that, the variance of a
    class with one image (common in the tail) would be zero.

    Args:
        correct, count: int (classes,).
    """
    correct, count = np.asarray(correct, float)[count > 0], np.asarray(count, float)[count > 0]
    if len(count) == 0:
        return 0.0, 1.0
    center = (correct / count).mean()
    mean = (center * len(count) + 0.5) / (len(count) + 1)  # never quite 0 or 1
    fraction = (correct + 2 * mean) / (count + 2)
    half = z * math.sqrt((fraction * (1 - fraction) / count).sum()) / len(count)
    return max(0.0, center - half), min(1.0, center + half)
