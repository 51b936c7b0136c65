"""From probabilities to metrics and tables.  Pure NumPy: no network, no tracker."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.dataset.class_groups import GROUPS, class_groups
from rp2k_lab.evaluation.intervals import macro_interval, wilson_interval


@dataclass(frozen=True)
class Predictions:
    """What a network said of a split, a row a photo in the split's order.

    Attributes:
        labels: int32 (photos,).
        top_labels: int32 (photos, k), most probable first, k = min(5, classes).
        top_probabilities: float32 (photos, k).
    """

    labels: np.ndarray
    top_labels: np.ndarray
    top_probabilities: np.ndarray


@dataclass(frozen=True)
class Score:
    """A share with what it was counted on and its 95 % interval."""

    value: float
    count: int
    low: float
    high: float


def top_k(probabilities: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The k most probable labels (int32) and their probabilities, both (rows, min(k, classes)); ties by label."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return order.astype(np.int32), np.take_along_axis(probabilities, order, axis=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, of the logits' shape and dtype."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def per_class(predictions: Predictions, classes: list[str], train_counts: np.ndarray) -> pd.DataFrame:
    """One row a class: class, label, group, train_images, images, correct, accuracy (NaN without images), low, high."""
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


def scores(predictions: Predictions, table: pd.DataFrame, others: str | None) -> dict[str, Score]:
    """top1, top5, macro_top1, head_top1, medium_top1, tail_top1 (over the group's images), top1_without_others.

    Args:
        table: the predictions' `per_class` table.
        others: the catch-all class; `top1_without_others` leaves out its photos, where the data set has it.

    A group, or a split, without images has no score.
    """
    count = len(predictions.labels)
    if count == 0:
        return {}
    result = {"top1": _share(table["correct"].sum(), count)}
    result["top5"] = _share((predictions.top_labels == predictions.labels[:, None]).any(1).sum(), count)
    seen = table[table["images"] > 0]
    low, high = macro_interval(seen["correct"].to_numpy(), seen["images"].to_numpy())
    result["macro_top1"] = Score(float(seen["accuracy"].mean()), count, low, high)
    parts = {f"{group}_top1": seen[seen["group"] == group] for group in GROUPS}
    if others in set(table["class"]):
        parts["top1_without_others"] = seen[seen["class"] != others]
    result |= {name: _share(part["correct"].sum(), part["images"].sum()) for name, part in parts.items() if len(part)}
    return result


def _share(correct, count) -> Score:
    correct, count = int(correct), int(count)
    return Score(correct / count, count, *wilson_interval(correct, count))


def confusion_pairs(predictions: Predictions, classes: list[str]) -> pd.DataFrame:
    """The confusion matrix's cells that are not zero: true, predicted (class names), count; largest count first."""
    cells = predictions.labels.astype(np.int64) * len(classes) + predictions.top_labels[:, 0]
    cell, count = np.unique(cells, return_counts=True)
    names = np.array(classes, dtype=object)
    pairs = pd.DataFrame({"true": names[cell // len(classes)], "predicted": names[cell % len(classes)], "count": count})
    return pairs.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def predictions_table(predictions: Predictions, paths, classes: list[str]) -> pd.DataFrame:
    """One row a photo: path, true, correct, then top1…top5 (class names) and p1…p5 (probabilities)."""
    names = np.array(classes, dtype=object)
    columns = {"path": list(paths), "true": names[predictions.labels]}
    columns["correct"] = predictions.top_labels[:, 0] == predictions.labels
    for i in range(predictions.top_labels.shape[1]):
        columns[f"top{i + 1}"] = names[predictions.top_labels[:, i]]
        columns[f"p{i + 1}"] = predictions.top_probabilities[:, i]
    return pd.DataFrame(columns)
