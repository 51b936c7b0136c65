"""From a study's trials and their runs to the results of its table."""

import pandas as pd

from rp2k_lab.ablation import Ablation, Scale


def collect(
    ablation: Ablation, scale: Scale, seeds: tuple[int, ...], study: str | None, storage: str | None, tracking
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """(rows of results.csv, rows of images.csv), or None where the storage holds no such study."""
    return None
