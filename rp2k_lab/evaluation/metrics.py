"""Metrics and tables from probabilities.  Pure NumPy: no network, no tracker."""

import logging

import numpy as np
import pandas as pd

from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metric_registry import Predictions, Score, SplitResult, metrics

log = logging.getLogger(__name__)


def top_k(probabilities: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most probable labels (int32) and probabilities, both (rows, min(k, classes)); ties by label."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return order.astype(np.int32), np.take_along_axis(probabilities, order, axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis, in the logits' shape and dtype."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def per_class(
    predictions: Predictions, classes: list[str], train_counts: np.ndarray, limits: tuple[int, int] | None = None
) -> pd.DataFrame:
    """Return one row a class: class, label, group, train_images, images, correct, accuracy (or NaN), low, high.

    Args:
        limits: of the groups, see `class_groups`.
    """
    correct = predictions.top_labels[:, 0] == predictions.labels
    images = np.bincount(predictions.labels, minlength=len(classes))
    hits = np.bincount(predictions.labels[correct], minlength=len(classes))
    bounds = np.array([wilson_interval(int(h), int(n)) for h, n in zip(hits, images, strict=True)])
    return pd.DataFrame(
        {
            "class": classes,
            "label": np.arange(len(classes), dtype=np.int32),
            "group": class_groups(train_counts, limits)[0],
            "train_images": train_counts,
            "images": images,
            "correct": hits,
            "accuracy": np.divide(hits, images, out=np.full(len(classes), np.nan), where=images > 0),
            "low": bounds[:, 0],
            "high": bounds[:, 1],
        }
    )


def scores(predictions: Predictions, table: pd.DataFrame, catch_all_class: str | None) -> dict[str, Score]:
    """Return the score of each metric (`metric_registry.metrics`) that the split has; none without images.

    Args:
        table: the predictions' `per_class` table.
        catch_all_class: the class that `top1_without_others` leaves out; None or an absent class: no such score.

    Raises:
        RequestError: a metric of an installed package gives an impossible value.
    """
    if len(predictions.labels) == 0:
        return {}
    result = SplitResult(predictions, table, catch_all_class)
    measured = {name: metric.measure(result) for name, metric in metrics().items()}
    return {name: score for name, score in measured.items() if score is not None}


def confusion_pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """Return the non-zero cells of the confusion matrix: true, predicted (class names), count; largest count first."""
    cells = predictions.labels.astype(np.int64) * len(classes) + predictions.top_labels[:, 0]
    cell, count = np.unique(cells, return_counts=True)
    names = np.array(classes, dtype=object)
    pairs = pd.DataFrame({"true": names[cell // len(classes)], "predicted": names[cell % len(classes)], "count": count})
    return pairs.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def predictions_table(predictions: Predictions, rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Return one row an image: path, true, correct, then top1…top5 (class names) and p1…p5 (probabilities).

    The last columns are width and height [pixels], and `group` if the data set has groups.

    Args:
        rows: of the split, see `Index.split`.
    """
    names = np.array(classes, dtype=object)
    columns = {"path": rows["path"].to_numpy(object), "true": names[predictions.labels]}
    columns["correct"] = predictions.top_labels[:, 0] == predictions.labels
    for i in range(predictions.top_labels.shape[1]):
        columns[f"top{i + 1}"] = names[predictions.top_labels[:, i]]
        columns[f"p{i + 1}"] = predictions.top_probabilities[:, i]
    columns |= {name: rows[name].to_numpy() for name in ("width", "height", "group") if name in rows}
    return pd.DataFrame(columns)


def independent_units(images: pd.DataFrame) -> np.ndarray | None:
    """Return what counts as one photo in intervals: a photo's group, or itself; None: no photo has a group.

    Args:
        images: columns path and, if the data set has groups, group ("": none).
    """
    if "group" not in images:
        return None
    return images["group"].where(images["group"] != "", images["path"]).to_numpy(object)


def units_of_single_runs(images: pd.DataFrame) -> np.ndarray | None:
    """Return `independent_units`; None with a warning if there is one, which cannot tell how another would differ."""
    units = independent_units(images)
    if units is not None and len(np.unique(units)) == 1 < len(units):
        log.warning("all %d photos are of the group %s: intervals count them as independent", len(units), units[0])
        return None
    return units
