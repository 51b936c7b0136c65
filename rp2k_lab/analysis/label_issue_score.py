"""Precision and recall of suspected labels on a shelf set with planted label errors."""

from collections.abc import Sequence
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

RECALL = 0.5
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 46
_STYLE = """
.recall { --paper: #fff; --ink: #1b2430; --quiet: #5d6978; --line: #dfe3e8; --ours: #1d5fa8; }
@media (prefers-color-scheme: dark) { .recall { --paper: #1b2129; --ink: #e6eaef; --quiet: #9ba7b5; --line: #313a46;
--ours: #6fb1f2; } }
.recall { font: 13px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.recall text { fill: var(--ink); stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.recall .paper { fill: var(--paper); } .recall .quiet { fill: var(--quiet); } .recall .grid { stroke: var(--line); }
.recall .band { fill: var(--ours); opacity: 0.18; } .recall .mark { fill: var(--ours); }
.recall .curve { fill: none; stroke: var(--ours); stroke-width: 2; }
.recall .chance { stroke: var(--quiet); stroke-dasharray: 4 3; }
"""


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
    upper, lower = (_points(steps["recall"], steps[name]) for name in ("high", "low"))
    best = precision_at_recall(curve)
    value = f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}] at recall {RECALL:g}"
    ticks = np.linspace(0, 1, 6)
    x, y = _x(RECALL), _y(best.value)
    return Markup(
        "".join(
            [
                f'<svg class="recall" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
                f'aria-label="precision over recall of suspected labels"><style>{_STYLE}</style>'
                f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
                *(f'<path class="grid" d="M{_x(0)} {_y(t):.1f}H{_x(1)}"/>' for t in ticks),
                *(_text(_LEFT - 8, _y(t) + 4.5, f"{t:.1f}", "end") for t in ticks),
                *(_text(_x(t), _y(0) + 19, f"{t:.1f}", "middle") for t in ticks),
                f'<path class="chance" d="M{_x(0)} {_y(chance):.1f}H{_x(1)}"><title>random order</title></path>',
                f'<path class="band" d="M{"L".join([*upper, *lower[::-1]])}Z"/>',
                f'<path class="curve" d="M{"L".join(_points(steps["recall"], steps["precision"]))}"/>',
                f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{value}</title></circle>',
                _text(x, _y(best.value / 2), value, "middle", ""),  # well below the falling curve
                _text(_x(0.5), _HEIGHT - 6, "recall: fraction of the wrong labels in the list", "middle", ""),
                f'<g transform="rotate(-90 14 {_y(0.5):.1f})">',
                _text(14, _y(0.5), "precision", "middle", ""),
                "</g></svg>\n",
            ]
        )
    )


def _x(fraction: float) -> float:
    return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)


def _y(fraction: float) -> float:
    return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)


def _points(recalls: Sequence[float], precisions: Sequence[float]) -> list[str]:
    return [f"{_x(a):.1f} {_y(b):.1f}" for a, b in zip(recalls, precisions, strict=True)]


def _text(x: float, y: float, text: str, anchor: str, kind: str = "quiet") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


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
