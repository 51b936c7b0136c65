"""Precision and recall of suspected labels on a shelf set with planted label errors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from rp2k_lab.analysis.label_issues import LabelIssues
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.dataset.shelf.generate import TRUTH_FILE
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.pages.charts import recall_chart

RECALL = 0.5


@dataclass(frozen=True)
class LabelScore:
    """Score of a ranking against the planted errors.

    Attributes:
        images, wrong: number of ranked images and of wrong labels among them.
        precision: of the shortest list with half of the wrong labels; its count is the list's length.
        suggestion: fraction of the wrong labels in that list whose suggested class is the true class.
        curve: from `precision_recall`.
    """

    images: int
    wrong: int
    precision: Score
    suggestion: Score
    curve: pd.DataFrame


def score_labels(index: Index, rows: pd.DataFrame, errors: LabelIssues) -> LabelScore | None:
    """Return the score of a ranking against a shelf set's truth; None for other data sets or without wrong labels.

    Args:
        index: `dataset.relabel` is already applied to its labels.
        rows: the ranked images, from `Index.split`, in the order of `errors`.
    """
    file = index.root / TRUTH_FILE
    if not file.is_file():
        return None
    truth = pd.read_parquet(file, columns=["path", "true_class"]).set_index("path")["true_class"]
    true = truth.reindex(rows["path"]).to_numpy(object)
    wrong = rows["class"].to_numpy(object) != true
    if not wrong.any():
        return None
    curve = precision_recall(errors.suspicion, wrong)
    precision = precision_at_recall(curve)
    listed = wrong & (errors.suspicion >= curve["suspicion"][curve["listed"] == precision.count].iloc[0])
    correct, count = int((errors.suggested_names(index.classes) == true)[listed].sum()), int(listed.sum())
    suggestion = Score(correct / count, count, *wilson_interval(correct, count))
    return LabelScore(len(rows), int(wrong.sum()), precision, suggestion, curve)


def precision_recall(suspicion: np.ndarray, wrong: np.ndarray) -> pd.DataFrame:
    """Return precision and recall for each possible length of the ranked list; images of equal suspicion are one step.

    Args:
        suspicion: float (images,), larger is more suspicious.
        wrong: bool (images,), at least one.

    Returns:
        Columns listed, found (counts), suspicion (of the last one listed), precision, recall (0 to 1), low, high (95 %
        interval of the precision, Wilson).
    """
    order = np.argsort(-suspicion, kind="stable")
    ranked = suspicion[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    listed, found = ends + 1, np.cumsum(wrong[order])[ends]
    bounds = np.array([wilson_interval(int(f), int(n)) for f, n in zip(found, listed, strict=True)])
    return pd.DataFrame(
        {
            "listed": listed,
            "found": found,
            "suspicion": ranked[ends],
            "precision": found / listed,
            "recall": found / wrong.sum(),
            "low": bounds[:, 0],
            "high": bounds[:, 1],
        }
    )


def precision_at_recall(curve: pd.DataFrame, recall: float = RECALL) -> Score:
    """Return the precision of the shortest list with this recall; its count is the list's length."""
    row = curve[curve["recall"] >= recall].iloc[0]
    return Score(float(row["precision"]), int(row["listed"]), float(row["low"]), float(row["high"]))


def curve_chart(curve: pd.DataFrame, chance: float) -> Markup:
    """Return precision over recall with its interval as SVG, for a file or a page, light or dark.

    Args:
        curve: from `precision_recall`.
        chance: precision of a random order: the fraction of wrong labels.
    """
    # One point for each found label: the shortest list with that recall.
    steps = curve[curve["found"] > 0].drop_duplicates("found").iloc[:: max(1, curve["found"].max() // 400)]
    best = precision_at_recall(curve)
    label = f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}] at recall {RECALL:g}"
    return recall_chart(steps, (RECALL, best.value, label), chance)


def format_label_issues(labels: LabelIssues | None, split: str, score: LabelScore | None, file: Path) -> str:
    """Return text about the suspected labels: their number, the list's file, and its score if the truth is known.

    Args:
        labels: None if the network was trained on the images.
    """
    folds = "to rank the labels of train by networks that never saw them, use task.folds=3"
    if labels is None:
        return f"labels      {folds}"
    lines = [f"labels      {labels.suspected.sum()} of {len(labels.labels)} of {split} are suspected: {file}"]
    if score is not None:
        best = score.precision
        lines.append(
            f"            {score.wrong} are wrong; the list's first {best.count} include half of them: precision "
            f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}]"
        )
    return "\n".join(lines + ([] if split == "train" else [f"            {folds}"]))
