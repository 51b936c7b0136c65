"""Interleaved timing: on a shared machine only a ratio taken in the same minute means anything."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def interleave(parts: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Call every part once a round, the order reversed in every other round; each returns its own figure.

    Returns float (rounds,) per part.
    """
    figures = {name: [] for name in parts}
    for i in range(rounds):
        for name in list(parts) if i % 2 == 0 else reversed(parts):
            figures[name].append(parts[name]())
    return {name: np.array(values) for name, values in figures.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high): the distribution-free interval of the median from order statistics, at least 95 %.

    With fewer than 6 values no such interval exists, and low and high are the extremes.
    """
    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    tail, k = 0.5**n, 0  # probability that at most k of n values lie below the median
    while k + 1 < n / 2 and tail + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    return float(np.median(ordered)), float(ordered[k]), float(ordered[n - 1 - k])


def ratio_line(name: str, ratios: Sequence[float]) -> str:
    """`name 1.02 [0.99, 1.05], n = 11`."""
    median, low, high = median_interval(ratios)
    return f"{name} {median:.3f} [{low:.3f}, {high:.3f}], n = {len(ratios)} rounds"
