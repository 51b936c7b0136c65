"""Two runs on the same photos: which errors the second has fixed, which are new, which both have."""

import pandas as pd

from rp2k_lab.core.errors import RequestError

STATES = ("fixed", "new", "kept")
_OF_EACH = ("top1", "p1", "cause")


def pair_table(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """One row a photo that either run has wrong, in the index's order.

    Args:
        first, second: cases of the same photos, columns path, row, true, correct, top1, p1, cause.

    Returns:
        Columns path, row, true, state (fixed: only the first has it wrong; new: only the second; kept: both), same
        (bool: both say the same class), then top1_first, p1_first, cause_first and the same of the second.

    Raises:
        RequestError: other photos or labels.
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
        for column in _OF_EACH:
            table[f"{column}_{name}"] = cases[column].to_numpy()
    return table[wrong_first | wrong_second].reset_index(drop=True)


def pair_classes(table: pd.DataFrame) -> pd.DataFrame:
    """One row a class with such photos: class, fixed, new, kept (counts), those that changed most first."""
    counts = pd.crosstab(table["true"], table["state"]).reindex(columns=list(STATES), fill_value=0)
    counts = counts.rename_axis(columns=None).rename_axis("class").reset_index()
    order = (counts["new"] - counts["fixed"]).abs().sort_values(ascending=False, kind="stable").index
    return counts.loc[order].reset_index(drop=True)
