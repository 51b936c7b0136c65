"""`dataset.relabel`: apply a reviewed list of label errors to the table of images; no file of the data changes."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.core.csv_files import (
    DAMAGED,
    TYPED_AGAIN,
    UnreadableText,
    is_changed_number,
    is_damaged,
    read_csv,
    write_csv,
)
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls

log = logging.getLogger(__name__)

_COLUMNS = ("path", "given", "suggested")
_DECISION = "decision"
_IGNORED = ("score", "note")
_DECISIONS = {"yes": True, "no": False, "": False}
_FORM = f"use a list with the columns {', '.join(_COLUMNS)}, which task=errors writes"


def read_relabels(file: Path) -> pd.DataFrame:
    """Return the accepted lines of a reviewed list, and log their number.

    A list is a CSV with the columns path, given and suggested (class names).  An optional column `decision` accepts a
    line (yes) or rejects it (no or empty); without it every line is accepted.  Columns score and note are ignored.  Any
    other column is refused: it may be a misspelled `decision`.

    Returns:
        Columns path, given, suggested (str), in the file's order; the index is the line's number.

    Raises:
        RequestError: no such CSV, a missing or unknown column, an unknown decision, a duplicate path, or a value that a
            spreadsheet damaged.
    """
    name = f"dataset.relabel={escape_controls(file)}"
    try:
        lines = read_csv(file)
    except UnreadableText as error:
        raise RequestError(f"{name}{error}") from None
    missing = [column for column in _COLUMNS if column not in lines]
    if missing:
        raise RequestError(f"{name}: has no column {missing[0]}\n{_FORM}")
    for column in lines.columns.difference([*_COLUMNS, _DECISION, *_IGNORED], sort=False):
        raise RequestError(
            f"{name}: has an unknown column {escape_controls(column)}\n"
            f"call it {_DECISION} if it accepts lines, note if it does not, or remove it"
        )
    lines = lines[lines["path"].str.strip() != ""]
    if _DECISION in lines:
        decision = lines[_DECISION].str.strip().str.casefold()
        _refuse(name, decision[~decision.isin(_DECISIONS)], "is no decision", "write yes, no or nothing")
        accepted = lines[decision.map(_DECISIONS).astype(bool)]
        counts = decision.value_counts()
        kinds = f"{counts.get('yes', 0)} yes, {counts.get('no', 0)} no, {counts.get('', 0)} without a decision"
        log.log(logging.INFO if len(accepted) else logging.WARNING,
                "%s: %d of %d lines are applied (%s)", name, len(accepted), len(lines), kinds)  # fmt: skip
        lines = accepted
    else:
        log.info("%s: all %d lines are applied, since there is no column %s", name, len(lines), _DECISION)
    for column in _COLUMNS:
        _refuse(name, lines.loc[lines[column].map(is_damaged).astype(bool), column], DAMAGED, TYPED_AGAIN)
    duplicates = lines["path"][lines["path"].str.strip().duplicated()]
    _refuse(name, duplicates, "is a duplicate of an earlier line", "keep one of the lines")
    return lines[list(_COLUMNS)]


def write_relabels(suspects: pd.DataFrame, file: Path) -> None:
    """Write a list for review: a CSV with the columns path, given, suggested and score, in the order of `suspects`.

    Args:
        suspects: has at least these columns, like `analysis.label_issues.LabelIssues.ranked`.
    """
    write_csv(suspects[[*_COLUMNS, "score"]], file, float_format="%.4f")


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
    for column, known in (("path", set(listed["path"])), ("given", set(classes)), ("suggested", set(classes))):
        lines[column] = [_known(value, known) for value in lines[column]]
    images = listed.set_index("path").reindex(lines["path"]).set_axis(lines.index)
    paths = lines["path"]
    _refuse(source, paths[images["class"].isna()], "is no photo of this data set", "use paths below dataset.root")
    _refuse(
        source,
        paths[images["split"] != "train"],
        "is not in train: labels of val and test stay, since they measure every run",
        "leave it out, or correct the data for all runs",
    )
    other = images["class"] != lines["given"]
    changed = np.array([is_changed_number(*pair) for pair in zip(lines["given"], images["class"], strict=True)], bool)
    _refuse(source, lines["given"][other & changed], DAMAGED, TYPED_AGAIN)
    _refuse(
        source,
        paths[other],
        "has another label than in the list's column given",
        "use a list of this data: write one with task=errors",
    )
    unknown = lines["suggested"][~lines["suggested"].isin(classes)]
    changed = np.array([any(is_changed_number(value, name) for name in classes) for value in unknown], bool)
    _refuse(source, unknown[changed], DAMAGED, TYPED_AGAIN)
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


def _known(value: str, known: set[str]) -> str:
    """Return a name without the spaces around it, unless it is known with them."""
    return value if value in known else value.strip()


def _refuse(name: str, wrong: pd.Series, reason: str, hint: str) -> None:
    """Raise RequestError for the first wrong value, with its line and the number of others."""
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RequestError(f"{name}, line {wrong.index[0]}: {escape_controls(wrong.iloc[0])} {reason}{more}\n{hint}")
