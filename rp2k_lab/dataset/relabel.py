"""`dataset.relabel`: apply a reviewed list of label errors to the table of images; no file of the data changes."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls

log = logging.getLogger(__name__)

_COLUMNS = ("path", "given", "suggested")
_DECISIONS = {"yes": True, "no": False, "": False}
# A class may be called NA; spreadsheets write a byte order mark; line numbers are an editor's.
_CSV_OPTIONS = {
    "dtype": str,
    "keep_default_na": False,
    "encoding": "utf-8-sig",
    "skip_blank_lines": False,
    "index_col": False,
}
_FORM = f"use a list with the columns {', '.join(_COLUMNS)}, which task=errors writes"


def read_relabels(file: Path) -> pd.DataFrame:
    """Return the accepted lines of a reviewed list.

    A list is a CSV with the columns path, given and suggested (class names).  An optional column `decision` accepts a
    line (yes) or rejects it (no or empty); without it every line is accepted.  Other columns are ignored.

    Returns:
        Columns path, given, suggested (str), in the file's order; the index is the line's number.

    Raises:
        RequestError: no such CSV, a missing column, an unknown decision, a duplicate path.
    """
    name = f"dataset.relabel={escape_controls(file)}"
    try:
        lines = pd.read_csv(file, **_CSV_OPTIONS)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{name}: cannot be read as a CSV ({reason})\n{_FORM}") from None
    missing = [column for column in _COLUMNS if column not in lines]
    if missing:
        raise RequestError(f"{name}: has no column {missing[0]}\n{_FORM}")
    lines.index = lines.index + 2  # an editor's line numbers, below the header
    lines = lines[lines["path"] != ""]
    if "decision" in lines:
        decision = lines["decision"].str.strip().str.lower()
        _refuse(name, decision[~decision.isin(_DECISIONS)], "is no decision", "write yes, no or nothing")
        lines = lines[decision.map(_DECISIONS).astype(bool)]
    duplicates = lines["path"][lines["path"].duplicated()]
    _refuse(name, duplicates, "is a duplicate of an earlier line", "keep one of the lines")
    return lines[list(_COLUMNS)]


def write_relabels(suspects: pd.DataFrame, file: Path) -> None:
    """Write a list for review: a CSV with the columns path, given, suggested and score, in the order of `suspects`.

    Args:
        suspects: has at least these columns, like `analysis.label_issues.LabelIssues.ranked`.
    """
    suspects.to_csv(file, columns=[*_COLUMNS, "score"], index=False, float_format="%.4f")


def relabel(table: pd.DataFrame, listed: pd.DataFrame, classes: list[str], file: Path) -> pd.Series:
    """Return the class column of `table` with the labels of a reviewed list for training images.

    Listed images that the run does not use (`dataset.fraction`, `.fold`) have no effect.  The list must not name images
    of val and test: a network's opinion of the images that measure it must not change their labels.

    Args:
        table: the images in use; columns path, class, split.
        listed: all images of the data set, with the same columns.
        classes: all class names.
        file: see `read_relabels`.

    Raises:
        RequestError: an unknown path, an image of val or test, a label other than `given`, an unknown class, a class
            left without a training image; or see `read_relabels`.
    """
    lines, source = read_relabels(file), f"dataset.relabel={escape_controls(file)}"
    images = listed.set_index("path").reindex(lines["path"]).set_axis(lines.index)
    paths = lines["path"]
    _refuse(source, paths[images["class"].isna()], "is no photo of this data set", "use paths below dataset.root")
    _refuse(
        source,
        paths[images["split"] != "train"],
        "is not in train: labels of val and test stay, since they measure every run",
        "leave it out, or correct the data for all runs",
    )
    _refuse(
        source,
        paths[images["class"] != lines["given"]],
        "has another label than in the list's column given",
        "use a list of this data: write one with task=errors",
    )
    unknown = lines["suggested"][~lines["suggested"].isin(classes)]
    _refuse(source, unknown, "is no class of this data set", "correct the column suggested")
    suggested = dict(zip(paths, lines["suggested"], strict=True))
    new = pd.Series(
        [suggested.get(path, name) for path, name in zip(table["path"], table["class"], strict=True)],
        table.index,
        table["class"].dtype,
    )
    empty = set(table.loc[table["split"] == "train", "class"]) - set(new[table["split"] == "train"])
    if empty:
        raise RequestError(
            f"{source}: leaves no training photo of the class {escape_controls(min(empty))}\n"
            "remove one of its photos from the list"
        )
    log.info("%d of %d training photos relabeled by %s",
             np.count_nonzero(new != table["class"]), np.count_nonzero(table["split"] == "train"), file)  # fmt: skip
    return new


def _refuse(name: str, wrong: pd.Series, reason: str, hint: str) -> None:
    """Raise RequestError for the first wrong value, with its line and the number of others."""
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RequestError(f"{name}, line {wrong.index[0]}: {escape_controls(wrong.iloc[0])} {reason}{more}\n{hint}")
