"""Errors of two runs on the same images: fixed by the second, new, or kept."""

import pandas as pd

from rp2k_lab.core.errors import RequestError

STATES = ("fixed", "new", "kept")
_RUN_COLUMNS = ("top1", "p1", "cause")


def pair_table(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each image that either run gets wrong, in the index's order.

    Args:
        first, second: cases of the same images, columns path, row, true, correct, top1, p1, cause.

    Returns:
        Columns path, row, true, state (fixed: only the first is wrong; new: only the second; kept: both), same (bool:
        equal predictions), then top1_first, p1_first, cause_first, top1_second, p1_second, cause_second.

    Raises:
        RequestError: the images or labels differ.
    """
    keys = ["path", "row", "true"]
    if not first[keys].reset_index(drop=True).equals(second[keys].reset_index(drop=True)):
        raise RequestError(
            f"runs: errors of different photos ({len(first):,} and {len(second):,}, paired by path and class)\n"
            "compare runs of one data set and split"
        )
    wrong_first, wrong_second = (~cases["correct"].to_numpy(bool) for cases in (first, second))
    table = first[keys].reset_index(drop=True)
    table["state"] = "kept"
    table.loc[wrong_first & ~wrong_second, "state"] = "fixed"
    table.loc[~wrong_first & wrong_second, "state"] = "new"
    table["same"] = first["top1"].to_numpy(object) == second["top1"].to_numpy(object)
    for name, cases in (("first", first), ("second", second)):
        for column in _RUN_COLUMNS:
            table[f"{column}_{name}"] = cases[column].to_numpy()
    return table[wrong_first | wrong_second].reset_index(drop=True)


def pair_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the counts of a pair table by class: class, fixed, new, kept; the largest change first."""
    counts = pd.crosstab(table["true"], table["state"]).reindex(columns=list(STATES), fill_value=0)
    counts = counts.rename_axis(columns=None).rename_axis("class").reset_index()
    order = (counts["new"] - counts["fixed"]).abs().sort_values(ascending=False, kind="stable").index
    return counts.loc[order].reset_index(drop=True)
