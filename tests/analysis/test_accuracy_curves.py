"""Accuracy curves over measures."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.accuracy_curves import MEASURES, accuracy_curves
from rp2k_lab.evaluation.intervals import wilson_interval


def table(values, correct) -> pd.DataFrame:
    """Return cases where only train_images varies."""
    frame = pd.DataFrame({"correct": np.asarray(correct, bool), "train_images": np.asarray(values, float)})
    return frame.assign(ratio=2.0, sharpness=0.5, brightness=np.nan)


def test_bins_have_equal_counts_and_a_wilson_interval():
    values = np.random.default_rng(0).permutation(100)
    curves = accuracy_curves(table(values, values >= 30))
    bins = curves[curves["measure"] == "train_images"]
    assert len(bins) == 10
    assert bins["images"].sum() == 100
    assert bins["images"].between(8, 12).all()
    for row in bins.itertuples():
        last = row.high_edge == 99
        inside = (values >= row.low_edge) & ((values < row.high_edge) | last)
        assert row.images == inside.sum()
        hits = int((values[inside] >= 30).sum())
        assert row.accuracy == hits / inside.sum()
        assert (row.low, row.high) == wilson_interval(hits, row.images)


def test_bins_are_adjacent():
    bins = accuracy_curves(table(np.arange(57), np.ones(57))).query("measure == 'train_images'")
    assert bins["high_edge"].tolist()[:-1] == bins["low_edge"].tolist()[1:]
    assert (bins["low_edge"].iloc[0], bins["high_edge"].iloc[-1]) == (0, 56)


@pytest.mark.parametrize("values", [[3] * 40, [1] * 39 + [2], [1] + [2] * 39, [1, 1, 2, 2, 3, 3]])
def test_equal_values_share_a_bin_and_no_bin_is_empty(values):
    bins = accuracy_curves(table(values, np.ones(len(values)))).query("measure == 'train_images'")
    assert bins["images"].sum() == len(values)
    assert (bins["images"] > 0).all()
    assert bins["low_edge"].is_unique


def test_a_measure_without_values_has_no_curve():
    curves = accuracy_curves(table([1, 2], [True, False]))
    assert curves["measure"].unique().tolist() == [m for m in MEASURES if m != "brightness"]
    ratio = curves[curves["measure"] == "ratio"]
    assert ratio[["low_edge", "high_edge", "images", "accuracy"]].to_numpy().tolist() == [[2, 2, 2, 0.5]]
