"""summary.html: a run on one page, which MLflow's viewer shows: closing table, curves, confused pairs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from rp2k_lab.core.files import write_text
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.evaluator import Evaluation
from rp2k_lab.evaluation.metric_registry import Score, metrics
from rp2k_lab.evaluation.metrics import confusion_pairs
from rp2k_lab.pages.document import Block, Document, Figure, Grid, Section, Text, to_html
from rp2k_lab.pages.search_plots import round_ticks
from rp2k_lab.tracking.tracker import MemoryTracker

FILE = "summary.html"
_MOST_PAIRS, _MOST_POINTS, _MOST_MARKS = 30, 200, 40
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 230, 52, 14, 12, 40
# Colors that differ from both grounds of the page by 3 to 1 or more.
_COLORS = ("#3a7fc8", "#b8651b", "#2a9264", "#a35fb0", "#c2485c", "#7c8794")

Curve = Sequence[tuple[int, float]]


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
        Figure(_chart(accuracy, " %"), "", "Accuracy on val over training steps."),
        Figure(_chart(loss, ""), "", "Training loss over training steps."),
    ]


def _thinned(curve: Curve) -> Curve:
    """Return a curve of at most _MOST_POINTS points, means of equal parts."""
    parts = np.array_split(np.array(curve), min(len(curve), _MOST_POINTS))
    return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def _chart(curves: Mapping[str, Curve], unit: str) -> Markup:
    """Return curves over steps as SVG with their names below it; the page's variables color the axes.

    Args:
        unit: behind the numbers of the vertical axis.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return Markup("")
    last, bottom = max(step for step, _ in points), _HEIGHT - _BOTTOM
    levels = round_ticks(min(value for _, value in points), max(value for _, value in points))
    x_of = lambda step: _LEFT + step / last * (_WIDTH - _LEFT - _RIGHT)  # noqa: E731
    y_of = lambda value: bottom - (value - levels[0]) / (levels[-1] - levels[0]) * (bottom - _TOP)  # noqa: E731
    parts = [f'<text x="{x_of(last / 2):.1f}" y="{_HEIGHT - 4}" text-anchor="middle">training steps</text>']
    for level in levels:
        y = y_of(level)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{level:g}{unit}</text>')
    for step in filter(lambda step: step <= last, round_ticks(0, last)):
        parts.append(f'<text x="{x_of(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step:,.0f}</text>')
    names = []
    for color, (name, curve) in zip(_COLORS, curves.items(), strict=False):
        line = " ".join(f"{x_of(step):.1f},{y_of(value):.1f}" for step, value in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for step, value in curve if len(curve) <= _MOST_MARKS else ():
            tip = escape(f"{name}, step {step:,}: {value:.4g}{unit}")
            mark = f'<circle cx="{x_of(step):.1f}" cy="{y_of(value):.1f}" r="3.5" fill="{color}">'
            parts.append(f"{mark}<title>{tip}</title></circle>")
        names.append(f'<span style="white-space: nowrap"><b style="color: {color}">●</b> {escape(name)}</span>')
    text = '<g fill="var(--quiet)" font-size="13" font-family="inherit">'
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(curves))}">'
    return Markup(f"{head}{text}{''.join(parts)}</g></svg><p>{' &ensp; '.join(names)}</p>")
