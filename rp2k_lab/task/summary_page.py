"""summary.html: a run on one page, which MLflow's viewer shows: closing table, curves, confused pairs."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rp2k_lab.core.files import write_text
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.evaluator import Evaluation
from rp2k_lab.evaluation.metric_registry import Score, metrics
from rp2k_lab.evaluation.metrics import confusion_pairs
from rp2k_lab.pages.charts import Curve, curve_chart
from rp2k_lab.pages.document import Block, Document, Figure, Grid, Section, Text, to_html
from rp2k_lab.tracking.tracker import MemoryTracker

FILE = "summary.html"
_MOST_PAIRS, _MOST_POINTS = 30, 200


def record_summary(tracker: MemoryTracker, evaluations: Mapping[str, Evaluation], index: Index, folder: Path) -> None:
    """Write and record summary.html of a training.

    Args:
        evaluations: of the best epoch's weights, by split.
    """
    tables = [Grid(*_scores(split, scores)) for split, (_, _, scores) in evaluations.items()]
    sections = [Section("Closing scores", tables), Section("During training", _figures(tracker.history))]
    for split, (predictions, _, _) in evaluations.items():
        pairs = confusion_pairs(predictions, index.classes)
        wrong = pairs[pairs["true"] != pairs["predicted"]]
        shown = [[row.true, row.predicted, str(row.count)] for row in wrong.head(_MOST_PAIRS).itertuples(index=False)]
        more = f"{len(shown)} of {len(wrong)} pairs; all are in {split}/confusion_pairs."
        table: list[Block] = [Grid(["class", "read as", "images"], shown), Text(more)]
        sections.append(Section(f"Confused on {split}", table if shown else [Text("No image is misread.")]))
    lead = f"{len(index.classes)} classes; the weights are those of the best epoch on val."
    write_text(folder / FILE, to_html(Document(tracker.run_name, lead, sections)))
    tracker.log_artifact(folder / FILE)


def _scores(split: str, scores: Mapping[str, Score]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a split's closing table: narrow enough for a phone."""
    rows = []
    for metric in (metric for name, metric in metrics().items() if name in scores):
        score, is_fraction = scores[metric.name], metric.kind == "fraction"
        text = (lambda value: f"{100 * value:.1f}") if is_fraction else "{:.4g}".format
        interval = "" if math.isnan(score.low) else f"{text(score.low)} – {text(score.high)}"
        rows.append([metric.label, f"{text(score.value)}{' %' if is_fraction else ''}", interval, str(score.count)])
    return [split, "score", "95 %", "of"], rows


def _figures(history: Mapping[str, Curve]) -> list[Block]:
    shown = [m for m in metrics().values() if m.in_curves and m.kind == "fraction" and history.get(f"val/{m.name}")]
    accuracy = {m.label: [(step, 100 * value) for step, value in history[f"val/{m.name}"]] for m in shown}
    loss = {"training loss": _thinned(history["train/loss"])}
    return [
        Figure(curve_chart(accuracy, "accuracy", " %"), "", "Accuracy on val over training steps."),
        Figure(curve_chart(loss, "loss"), "", "Training loss over training steps."),
    ]


def _thinned(curve: Curve) -> Curve:
    """Return a curve of at most _MOST_POINTS points, means of equal parts."""
    parts = np.array_split(np.array(curve), min(len(curve), _MOST_POINTS))
    return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]
