"""`dataset.relabel`: the reviewed list of label errors, applied to the table of photos; no file of the data changes."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls

log = logging.getLogger(__name__)

_COLUMNS = ("path", "given", "suggested")
_DECISIONS = {"yes": True, "no": False, "": False}
# A class may be called NA; spreadsheets write a byte order mark; line numbers are those of an editor.
_AS_WRITTEN = {
    "dtype": str,
    "keep_default_na": False,
    "encoding": "utf-8-sig",
    "skip_blank_lines": False,
    "index_col": False,
}
_FORM = f"needs the columns {', '.join(_COLUMNS)}, as task=errors writes them"


def read_relabels(file: Path) -> pd.DataFrame:
    """The lines of a reviewed list that are to be followed.

    A list is a CSV with the columns path, given and suggested (class names); a column `decision` says of each line
    whether it is to be followed (yes) or not (no or nothing), and without one every line is.  Other columns are
    ignored.

    Returns:
        Columns path, given, suggested (str), in the file's order; the index is the line's number.

    Raises:
        RequestError: no such CSV, a column is missing, another decision, a path twice.
    """
    name = f"dataset.relabel={escape_controls(file)}"
    try:
        lines = pd.read_csv(file, **_AS_WRITTEN)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{name}: cannot be read as a CSV ({reason})\n{_FORM}") from None
    missing = [column for column in _COLUMNS if column not in lines]
    if missing:
        raise RequestError(f"{name}: has no column {missing[0]}\n{_FORM}")
    lines.index = lines.index + 2  # as an editor counts, below the header
    lines = lines[lines["path"] != ""]
    if "decision" in lines:
        decision = lines["decision"].str.strip().str.lower()
        _refuse(name, decision[~decision.isin(_DECISIONS)], "is no decision", "write yes, no or nothing")
        lines = lines[decision.map(_DECISIONS).astype(bool)]
    twice = lines["path"][lines["path"].duplicated()]
    _refuse(name, twice, "stands in an earlier line too", "leave one of the lines")
    return lines[list(_COLUMNS)]


def write_relabels(suspects: pd.DataFrame, file: Path) -> None:
    """A list to be reviewed: a CSV with the columns path, given, suggested and score, in the order of `suspects`.

    Args:
        suspects: with these columns at least, as `analysis.labels.LabelIssues.ranked` has them.
    """
    suspects.to_csv(file, columns=[*_COLUMNS, "score"], index=False, float_format="%.4f")


def relabel(table: pd.DataFrame, listed: pd.DataFrame, classes: list[str], file: Path) -> pd.Series:
    """The class column of `table` with the labels that a reviewed list gives its training photos.

    Photos that the list names and the run does not use (`dataset.fraction`, `.fold`) are left alone.  The list may not
    name photos of val and test: what a network thinks of the photos it is measured on must not decide how they count.

    Args:
        table: the photos in use; columns path, class, split.
        listed: all of the data set, with the same columns.
        classes: the names that a label can have.
        file: as of `read_relabels`.

    Raises:
        RequestError: an unknown path, a photo of val or test, another label than `given`, an unknown class, a class
            that is left without a training photo; or what `read_relabels` refuses.
    """
    lines, source = read_relabels(file), f"dataset.relabel={escape_controls(file)}"
    photos = listed.set_index("path").reindex(lines["path"]).set_axis(lines.index)
    paths = lines["path"]
    _refuse(source, paths[photos["class"].isna()], "is no photo of this data set", "paths are relative to dataset.root")
    _refuse(
        source,
        paths[photos["split"] != "train"],
        "is not of train: labels that scores are measured by stay as they are",
        "leave it out, or correct the data for every run alike",
    )
    _refuse(
        source,
        paths[photos["class"] != lines["given"]],
        "has another label than the list gives it",
        "the list is of other data: make it anew by task=errors",
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
            "leave one of its photos out of the list"
        )
    log.info("%d of %d training photos have the label that %s gives them",
             np.count_nonzero(new != table["class"]), np.count_nonzero(table["split"] == "train"), file)  # fmt: skip
    return new


def _refuse(name: str, wrong: pd.Series, reason: str, way_out: str) -> None:
    """Raise RequestError where there is a wrong value; it names the first and its line, and counts the others."""
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RequestError(f"{name}, line {wrong.index[0]}: {escape_controls(wrong.iloc[0])} {reason}{more}\n{way_out}")
