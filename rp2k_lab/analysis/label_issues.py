"""Label issues by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021, arXiv 1911.00068).

The confident joint counts an image as (given i, suggested j) if j is the most probable class among those that reach
their threshold: a class's mean probability over the images with its label (section 3.1, equations 1 and 2).  Labels off
the diagonal are suspected.  The joint is stored as one suggestion for each image, not as a classes² matrix.

cleanlab's `LabelInspector` computes the thresholds and the label quality (normalized margin) in batches; the joint is
computed here, because cleanlab's is a dense matrix.  Images are ranked by quality alone.  Listing the joint's suspects
first is worse, because small and noisy classes have low thresholds: precision at recall 0.7 was 0.33 instead of 0.85
(shelf, 2669 images).

Probabilities must come from networks that were not trained on the images: memorized labels look certain.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.evaluation.metrics import Predictions

# Probabilities in memory at once: 2000 rows of RP2K's classes.
_BATCH_BYTES = 20_000_000

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class LabelIssues:
    """Suggested class and suspicion of each label, in the order of the probabilities.

    Attributes:
        labels: int32 (images,), as given.
        suggested: int32 (images,), the class in the confident joint; -1 if no class reaches its threshold.
        suspicion: float32 (images,), 0 to 1: 1 - normalized margin = (1 + p - q) / 2 with q the given label's
            probability and p the largest other one; 0 for an image without probabilities.
    """

    labels: np.ndarray
    suggested: np.ndarray
    suspicion: np.ndarray

    def at(self, positions: np.ndarray) -> "LabelIssues":
        """Return the issues at int (n,) positions."""
        return LabelIssues(self.labels[positions], self.suggested[positions], self.suspicion[positions])

    @property
    def suspected(self) -> np.ndarray:
        """bool (images,): off the confident joint's diagonal, and the given label is not the most probable class."""
        return (self.suggested >= 0) & (self.suggested != self.labels) & (self.suspicion > 0.5)

    def suggested_names(self, classes: list[str]) -> np.ndarray:
        """Return the suggested class of each suspected image, object (images,); "" for other images."""
        return np.where(self.suspected, np.array(classes, dtype=object)[self.suggested], "")

    def confident_joint(self, classes: list[str]) -> pd.DataFrame:
        """Return the nonzero cells of the confident joint: given, suggested (class names), count; largest first."""
        names = np.array(classes, dtype=object)
        known = self.suggested >= 0
        pairs = pd.DataFrame({"given": names[self.labels[known]], "suggested": names[self.suggested[known]]})
        return pairs.value_counts(["given", "suggested"]).rename("count").reset_index()

    def ranked(self, rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
        """Return the suspected images, highest suspicion first: path, row, given, suggested (names), score (suspicion).

        Args:
            rows: from `Index.split`, in the order of the probabilities.
        """
        positions = np.flatnonzero(self.suspected)
        positions = positions[np.argsort(-self.suspicion[positions], kind="stable")]
        images = rows.iloc[positions]
        names = np.array(classes, dtype=object)
        return pd.DataFrame(
            {
                "path": images["path"].to_numpy(),
                "row": images["row"].to_numpy(),
                "given": names[self.labels[positions]],
                "suggested": names[self.suggested[positions]],
                "score": self.suspicion[positions],
            }
        )


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Return the label issues from held-out probabilities of all classes.

    Args:
        labels: int32 (images,), as given.
        probabilities: float32 (images, classes), two or more classes, possibly memory-mapped: read twice, in batches.
            Rows of NaN (images that were never held out) get no suggestion.
    """
    count = max(1, _BATCH_BYTES // (4 * probabilities.shape[1]))
    known = np.concatenate(
        [~np.isnan(probabilities[i : i + count, 0]) for i in range(0, len(labels), count)] or [np.zeros(0, bool)]
    )
    rows = np.flatnonzero(known)
    parts = [rows[i : i + count] for i in range(0, len(rows), count)]
    suggested, suspicion = np.full(len(labels), -1, np.int32), np.zeros(len(labels), np.float32)
    suggested[rows], suspicion[rows] = _confident_learning(
        lambda: ((labels[part], probabilities[part]) for part in parts), probabilities.shape[1], len(rows)
    )
    return LabelIssues(labels, suggested, suspicion)


def find_label_issues_in_top(predictions: Predictions, classes: int) -> LabelIssues:
    """Return the label issues from the five most probable classes of each image, for val or test.

    The remaining probability is spread evenly over the other classes.  This changes a suggestion only if none of the
    five reaches its threshold and another class does.
    """
    labels, count = predictions.labels, max(1, _BATCH_BYTES // (4 * classes))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(0, len(labels), count):
            part = slice(i, i + count)
            yield labels[part], spread(predictions.top_labels[part], predictions.top_probabilities[part], classes)

    return LabelIssues(labels, *_confident_learning(batches, classes, len(labels)))


def spread(top_labels: np.ndarray, top_probabilities: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities of all classes, float32 (images, classes): the first k, and the rest spread evenly.

    Args:
        top_labels: int32 (images, k); top_probabilities: float32 (images, k).
    """
    other_classes = classes - top_labels.shape[1]
    rest = np.clip(1 - top_probabilities.sum(axis=1), 0, None) / max(1, other_classes)
    # No other class is more probable than the k-th.
    rest = np.minimum(rest, top_probabilities[:, -1])
    dense = np.repeat(rest[:, None], classes, axis=1).astype(np.float32)
    np.put_along_axis(dense, top_labels, top_probabilities, axis=1)
    return dense


def _confident_learning(batches: Callable[[], Batches], classes: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (suggested, suspicion) of `LabelIssues`.

    Args:
        batches: returns an iterator over (labels, probabilities without NaN) of all images; called twice.
    """
    from cleanlab.experimental.label_issues_batched import LabelInspector

    suggested, suspicion = np.full(images, -1, np.int32), np.zeros(images, np.float32)
    inspector = LabelInspector(
        num_class=classes, store_results=False, verbose=False, quality_score_kwargs={"method": "normalized_margin"}
    )
    for labels, probabilities in batches():
        inspector.update_confident_thresholds(labels, probabilities)
    first = 0
    for labels, probabilities in batches():
        # cleanlab gives a class without images a threshold near 0, which every image would reach.
        thresholds = np.where(inspector.examples_per_class > 0, inspector.get_confident_thresholds(), np.inf)
        quality = inspector.score_label_quality(labels, probabilities, update_num_issues=False)
        # The float32 mean of equal numbers may be rounded up above them.
        confident = np.where(probabilities >= thresholds.astype(np.float32) - 1e-6, probabilities, -1)
        best = confident.argmax(axis=1)
        best[confident.max(axis=1) < 0] = -1
        part = slice(first, first + len(labels))
        suggested[part] = best
        suspicion[part] = 1 - quality
        first += len(labels)
    return suggested, suspicion
