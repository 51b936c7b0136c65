"""Metrics and tables from probabilities.  Pure NumPy: no network, no tracker."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.dataset.class_groups import GROUPS, class_groups
from rp2k_lab.evaluation.intervals import macro_interval, wilson_interval


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for a split, one row an image, in the split's order.

    Attributes:
        labels: the true ones, int32 (images,).
        top_labels: int32 (images, k), most probable first, k = min(5, classes).
        top_probabilities: float32 (images, k).
    """

    labels: np.ndarray
    top_labels: np.ndarray
    top_probabilities: np.ndarray


@dataclass(frozen=True)
class Score:
    """A fraction with the number of images it was measured on and its 95 % interval."""

    value: float
    count: int
    low: float
    high: float


def top_k(probabilities: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return the k most probable labels (int32) and probabilities, both (rows, min(k, classes)); ties by label."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return order.astype(np.int32), np.take_along_axis(probabilities, order, axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis, in the logits' shape and dtype."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def per_class(predictions: Predictions, classes: list[str], train_counts: np.ndarray) -> pd.DataFrame:
    """Return one row a class: class, label, group, train_images, images, correct, accuracy (or NaN), low, high."""
    correct = predictions.top_labels[:, 0] == predictions.labels
    images = np.bincount(predictions.labels, minlength=len(classes))
    hits = np.bincount(predictions.labels[correct], minlength=len(classes))
    bounds = np.array([wilson_interval(int(h), int(n)) for h, n in zip(hits, images, strict=True)])
    return pd.DataFrame(
        {
            "class": classes,
            "label": np.arange(len(classes), dtype=np.int32),
            "group": class_groups(train_counts)[0],
            "train_images": train_counts,
            "images": images,
            "correct": hits,
            "accuracy": np.divide(hits, images, out=np.full(len(classes), np.nan), where=images > 0),
            "low": bounds[:, 0],
            "high": bounds[:, 1],
        }
    )


def scores(predictions: Predictions, table: pd.DataFrame, catch_all_class: str | None) -> dict[str, Score]:
    """Return top1, top5, macro_top1, head_top1, medium_top1, tail_top1 (over images) and top1_without_others.

    A group or a split without images has no score.

    Args:
        table: the predictions' `per_class` table.
        catch_all_class: `top1_without_others` leaves out its images; None, or a class that is absent: no such score.
    """
    count = len(predictions.labels)
    if count == 0:
        return {}
    result = {"top1": _score(table["correct"].sum(), count)}
    result["top5"] = _score((predictions.top_labels == predictions.labels[:, None]).any(1).sum(), count)
    seen = table[table["images"] > 0]
    low, high = macro_interval(seen["correct"].to_numpy(), seen["images"].to_numpy())
    result["macro_top1"] = Score(float(seen["accuracy"].mean()), count, low, high)
    parts = {f"{group}_top1": seen[seen["group"] == group] for group in GROUPS}
    if catch_all_class in set(table["class"]):
        parts["top1_without_others"] = seen[seen["class"] != catch_all_class]
    result |= {name: _score(part["correct"].sum(), part["images"].sum()) for name, part in parts.items() if len(part)}
    return result


def _score(correct: int, count: int) -> Score:
    correct, count = int(correct), int(count)  # NumPy's
    return Score(correct / count, count, *wilson_interval(correct, count))


def confusion_pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """Return the non-zero cells of the confusion matrix: true, predicted (class names), count; largest count first."""
    cells = predictions.labels.astype(np.int64) * len(classes) + predictions.top_labels[:, 0]
    cell, count = np.unique(cells, return_counts=True)
    names = np.array(classes, dtype=object)
    pairs = pd.DataFrame({"true": names[cell // len(classes)], "predicted": names[cell % len(classes)], "count": count})
    return pairs.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def predictions_table(predictions: Predictions, paths: Iterable[str], classes: list[str]) -> pd.DataFrame:
    """Return one row an image: path, true, correct, then top1…top5 (class names) and p1…p5 (probabilities)."""
    names = np.array(classes, dtype=object)
    columns = {"path": list(paths), "true": names[predictions.labels]}
    columns["correct"] = predictions.top_labels[:, 0] == predictions.labels
    for i in range(predictions.top_labels.shape[1]):
        columns[f"top{i + 1}"] = names[predictions.top_labels[:, i]]
        columns[f"p{i + 1}"] = predictions.top_probabilities[:, i]
    return pd.DataFrame(columns)
