"""Accuracy as a function of measures of an image and its class."""

import numpy as np
import pandas as pd

from rp2k_lab.evaluation.intervals import wilson_interval

MEASURES = ("train_images", "ratio", "sharpness", "brightness")
BINS = 10


def accuracy_curves(cases: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Return the accuracy in bins of about equally many images, for each of MEASURES.

    Bin edges are the measure's quantiles.  Equal edges are merged, so that a value lies in one bin and no bin is empty.
    Images with a NaN measure are left out.

    Args:
        cases: columns correct and MEASURES.

    Returns:
        Columns measure, low_edge, high_edge (a bin includes its low edge, the last bin both), images, accuracy, low,
        high (Wilson, 95 %).
    """
    rows = []
    correct = cases["correct"].to_numpy(bool)
    for measure in MEASURES:
        values = cases[measure].to_numpy(float)
        known = np.isfinite(values)
        rows += [(measure, *row) for row in _bins(values[known], correct[known], bins)]
    return pd.DataFrame(rows, columns=["measure", "low_edge", "high_edge", "images", "accuracy", "low", "high"])


def _bins(values: np.ndarray, correct: np.ndarray, bins: int) -> list[tuple]:
    if not len(values):
        return []
    # Edges are values of the data: an interpolated edge could leave a bin empty.
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    starts, ends = (edges[:-1], edges[1:]) if len(edges) > 1 else (edges, edges)
    bin_of = np.searchsorted(starts, values, side="right") - 1
    images = np.bincount(bin_of, minlength=len(starts)).tolist()
    hits = np.bincount(bin_of[correct], minlength=len(starts)).tolist()
    return [
        (start, end, n, hit / n, *wilson_interval(hit, n))
        for start, end, n, hit in zip(starts, ends, images, hits, strict=True)
    ]
