"""Interleaved timing: on a shared machine only ratios of simultaneous measurements are meaningful."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def interleave(parts: dict[str, Callable[[], float]], rounds: int) -> dict[str, np.ndarray]:
    """Call every part once a round, with reversed order in every other round.

    Returns:
        The results by part, float (rounds,).
    """
    results = {name: [] for name in parts}
    for i in range(rounds):
        for name in list(parts) if i % 2 == 0 else reversed(parts):
            results[name].append(parts[name]())
    return {name: np.array(values) for name, values in results.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (median, low, high): at least 95 % distribution-free interval of the median from order statistics.

    With fewer than 6 values there is no such interval; low and high are the extremes.
    """
    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    tail, k = 0.5**n, 0  # probability that at most k of n values lie below the median
    while k + 1 < n / 2 and tail + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    return float(np.median(ordered)), float(ordered[k]), float(ordered[n - 1 - k])


def ratio_line(name: str, ratios: Sequence[float]) -> str:
    """Return a text on ratios: `name 1.020 [0.990, 1.050], n = 11 rounds`."""
    median, low, high = median_interval(ratios)
    return f"{name} {median:.3f} [{low:.3f}, {high:.3f}], n = {len(ratios)} rounds"
