"""What a finished run says in the terminal."""

from pathlib import Path

import pandas as pd

from rp2k_lab.analysis.label_score import LabelScore
from rp2k_lab.analysis.labels import LabelErrors
from rp2k_lab.comparison import Verdict
from rp2k_lab.errors import shown
from rp2k_lab.metrics import Score

ROWS = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_top1": "macro top-1",
    "head_top1": "head top-1",
    "medium_top1": "medium top-1",
    "tail_top1": "tail top-1",
    "top1_without_others": "top-1 without others",
}


def closing_table(scores: dict[str, dict[str, Score]]) -> str:
    """Splits side by side; each cell is percent, 95 % interval and count."""
    cells = [["", *(split for split in scores)]]
    for name, label in ROWS.items():
        if any(name in split for split in scores.values()):
            cells.append([label, *(_cell(split.get(name)) for split in scores.values())])
    return _table(cells)


def ensemble_table(names: list[str], scores: dict[str, list[dict[str, Score]]], best: int, gain: Verdict) -> str:
    """Top-1 of every member and of their average, and what the average gains on test over the member best on val.

    Args:
        names: of the members, and of the average as the last.
        scores: split to the scores of each of `names`.
        best: the position of that member.
        gain: the average against it.
    """
    return (
        f"{top1_table(names, scores)}\n\n"
        f"gain        {_gain(gain)} over {names[best]}, the best member on val\n"
        "            of these very networks: the spread between seeds is not in the interval"
    )


def fixres_table(names: list[str], scores: dict[str, list[dict[str, Score]]], gains: list[Verdict]) -> str:
    """Top-1 of the untuned networks and, as the last, of the tuned one, and what it gains on test over each of them.

    Args:
        names: of the networks.
        scores: split to the scores of each of `names`.
        gains: of the tuned network over each of the others.
    """
    lines = [f"gain        {_gain(gain)} over {name}" for name, gain in zip(names[:-1], gains, strict=True)]
    lines.append("            of these very networks: the spread between seeds is not in the intervals")
    return "\n".join([top1_table(names, scores), "", *lines])


def top1_table(names: list[str], scores: dict[str, list[dict[str, Score]]]) -> str:
    """A row a name; a column a split, whose scores are those of `names` in order."""
    cells = [[name, *(_cell(each[i]["top1"]) for each in scores.values())] for i, name in enumerate(names)]
    return _table([["top-1", *scores], *cells])


def causes_table(causes: pd.DataFrame, correct: pd.Series) -> str:
    """A row a cause: of how many errors it is the main one, their share, how many have it, in which classes most.

    Args:
        causes: of `analysis.causes.cause_table`.
        correct: bool (photos,).
    """
    cells = [["cause", "main", "share", "have it", "most in"]]
    for row in causes.itertuples():
        share = f"{100 * row.share:5.1f} %" if row.main else "–"
        cells.append([row.cause, str(row.main), share, str(row.errors), ", ".join(map(shown, row.top_classes[:3]))])
    wrong = int((~correct).sum())
    return f"{_table(cells)}\n\nerrors      {wrong} of {len(correct)} photos"


def label_lines(labels: LabelErrors | None, split: str, score: LabelScore | None, file: Path) -> str:
    """How many labels of a split are suspected, where the list is, and how good it is where the truth is known.

    Args:
        labels: None where the network was trained on the photos.
    """
    folds = "those of train are ranked with task.folds=3 alone, by networks that never saw them"
    if labels is None:
        return f"labels      {folds}"
    lines = [f"labels      {labels.suspected.sum()} of {len(labels.labels)} of {split} are suspected: {file}"]
    if score is not None:
        best = score.precision
        lines.append(
            f"            {score.wrong} are wrong; the first {best.count} of the list hold half of those: precision "
            f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}]"
        )
    return "\n".join(lines + ([] if split == "train" else [f"            {folds}"]))


def photo_score_lines(score: pd.DataFrame) -> str:
    """How well the cause `photo` did against a shelf set's truth; `score` of `analysis.redrawn.photo_score`."""
    lines = [f"photo       of {score['errors'][0]} errors with a right label, {score['flagged'][0]} have this cause;"]
    for row in score.itertuples():
        shares = (f"{name} {share:.2f} [{low:.2f}, {high:.2f}]" for name, share, low, high in (
            ("precision", row.precision, row.precision_low, row.precision_high),
            ("recall", row.recall, row.recall_low, row.recall_high),
        ))  # fmt: skip
        what = "what it measures" if row.left_out == "measured" else "any nuisance"
        share = f"{row.fault} ({100 * row.fault_share:.0f} %)"
        lines.append(f"            drawn without {what} {share} are recognised: {', '.join(shares)}")
    return "\n".join(lines)


def _gain(gain: Verdict) -> str:
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"{100 * gain.difference.value:+.1f} points {interval} on {gain.difference.images} test photos"


def _table(cells: list[list[str]]) -> str:
    """Rows of cells, the first of them the heading."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join(["", lines[0], rule, *lines[1:]])


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score.value:5.1f} %  [{100 * score.low:4.1f}, {100 * score.high:5.1f}] of {score.count}"
