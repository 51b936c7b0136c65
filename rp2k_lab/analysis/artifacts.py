"""Artifacts of an analysis: tables, the page and metrics, in the run's folder and in the tracker."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.analysis.compare import pair_classes
from rp2k_lab.analysis.error_page import Content, page_order, write_page
from rp2k_lab.analysis.gradcam import explain
from rp2k_lab.analysis.label_issue_score import LabelScore, curve_chart, score_labels
from rp2k_lab.analysis.label_issues import LabelIssues
from rp2k_lab.analysis.redraw_check import photo_score
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.analysis.tables import ErrorTables
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.core.progress import activity
from rp2k_lab.core.text import percent
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.dataset.relabel import write_relabels
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import batches_for, build_views

log = logging.getLogger(__name__)

MAX_EXPLAINED = 500  # errors, in the page's order
MIN_CELLS = 6  # of the network's last map along a side, for contours: inputs of 192 pixels
LABEL_ERRORS, PAGE = "label_errors.csv", "errors.html"


@activity("writing the tables")
def record_tables(
    tracker: MemoryTracker, tables: ErrorTables, pairs: pd.DataFrame | None, split: str, folder: Path
) -> None:
    """Write the tables as files, and log the number of errors, in total and by main cause."""
    frames = {
        "cases.parquet": tables.cases,
        "classes.parquet": tables.classes,
        "clusters.parquet": tables.clusters,
        "causes.csv": tables.causes.assign(top_classes=tables.causes["top_classes"].map("; ".join)),
        "curves.csv": tables.curves,
    }
    if pairs is not None:
        frames |= {"pairs.parquet": pairs, "pair_classes.csv": pair_classes(pairs)}
    _record_frames(tracker, frames, folder)
    counts = {f"{split}/errors_{row.cause}": row.main for row in tables.causes.itertuples()}
    tracker.log_metrics({f"{split}/errors": int((~tables.cases["correct"]).sum())} | counts, 0)


def record_label_issues(
    tracker: MemoryTracker, index: Index, rows: pd.DataFrame, labels: LabelIssues, split: str, folder: Path
) -> LabelScore | None:
    """Write the list of suspected labels for review; on a shelf set with wrong labels, return and log its score.

    Args:
        rows: from `Index.split`, in the order of `labels`.
    """
    write_relabels(labels.ranked(rows, index.classes), folder / LABEL_ERRORS)
    tracker.log_artifact(folder / LABEL_ERRORS)
    _record_frames(tracker, {"confident_joint.csv": labels.confident_joint(index.classes)}, folder)
    tracker.log_metrics({f"{split}/suspected_labels": int(labels.suspected.sum())}, 0)
    score = score_labels(index, rows, labels)
    if score is not None:
        _record_frames(tracker, {"label_errors_curve.csv": score.curve}, folder)
        chart = folder / "label_errors_curve.svg"
        chart.write_text(curve_chart(score.curve, score.wrong / score.images), encoding="utf-8")
        tracker.log_artifact(chart)
        tracker.log_metrics({f"{split}/label_precision_at_recall_0.5": score.precision.value}, 0)
        tracker.set_tags({f"{split}/label_precision_at_recall_0.5_count": score.precision.count})
    return score


def record_photo_score(
    tracker: MemoryTracker, subject: Subject, cases: pd.DataFrame, folder: Path
) -> pd.DataFrame | None:
    """Write photo_score.csv of a shelf set, whose images can be redrawn; return None for other data sets."""
    index, batch_size = subject.index, subject.config.batch_size
    score = photo_score(subject.predictor(), index.classes, cases, index.root, batch_size)
    if score is not None:
        _record_frames(tracker, {"photo_score.csv": score}, folder)
    return score


def explain_errors(
    subject: Subject, cases: pd.DataFrame, pairs: pd.DataFrame | None
) -> tuple[dict[int, np.ndarray], str]:
    """Return (row of the index to heat map of the predicted class, method) for the page's first errors.

    A map of fewer than `MIN_CELLS` cells along a side says left or right, not where: then there are none, and "".
    """
    first = page_order(cases, pairs)[:MAX_EXPLAINED]
    config, index, predictor = subject.config, subject.index, subject.predictor()
    rows, labels = first["row"].tolist(), pd.Index(index.classes, dtype=object).get_indexer(first["top1"])
    views = build_views(predictor, index, config.dataset.cache_gb)
    batches = batches_for(predictor, views, rows, config, "explaining errors")
    maps, method = explain(subject.member.network, batches, labels, config.batch_size, subject.check, MIN_CELLS)
    return dict(zip(rows, maps, strict=True)) if method else {}, method


@activity("writing the page")
def record_page(tracker: MemoryTracker, content: Content, thumbnails: Thumbnails, folder: Path) -> None:
    """Write and log errors.html."""
    file, correct = folder / PAGE, content.tables.cases["correct"].to_numpy(bool)
    top1 = Score(correct.mean(), len(correct), *wilson_interval(int(correct.sum()), len(correct)))
    text = f"{percent(top1.value)} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
    left_out = write_page(file, replace(content, facts={**content.facts, "top-1": text}), thumbnails)
    if any(left_out.values()):
        log.info("errors.html is full: left out %d errors, %d photos and %d explanations",
                 left_out["rows"], left_out["images"], left_out["explanations"])  # fmt: skip
    tracker.log_artifact(file)


def _record_frames(tracker: MemoryTracker, frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write tables to the run's folder and log them, by file name."""
    for name, frame in frames.items():
        if name.endswith(".csv"):
            write_csv(frame, folder / name)
        else:
            frame.to_parquet(folder / name, index=False)
        tracker.log_artifact(folder / name)
