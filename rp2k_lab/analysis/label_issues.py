"""Which labels are wrong: confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021, arXiv 1911.00068).

A photo is counted in the confident joint as (given i, suggested j) where j is the most probable of the classes whose
probability reaches their threshold, the mean probability of a class over the photos that are labeled so (section 3.1,
equations 1 and 2).  Off the diagonal, labels are suspected.  The joint has at most one cell a photo, so it is kept as
one suggestion a photo and never as a matrix of classes².

cleanlab's are the thresholds and the label quality, normalized margin, both by its `LabelInspector`, which takes the
probabilities in batches; the joint is ours, since cleanlab's own is a dense matrix.  The order is that of the quality,
also for photos on the diagonal: the thresholds of small and noisy classes are low, and a list that began with all of
the joint's suspects held at recall 0.7 a third of wrong labels where the quality alone held 0.85 (shelf, 2669 photos).

The probabilities must be of photos that the network was not trained on: what it has learned by heart it does not doubt.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.evaluation.metrics import Predictions

# Probabilities in memory at once; RP2K's classes make 2000 rows of them.
_BATCH_BYTES = 20_000_000

Batches = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class LabelIssues:
    """What is thought of each label, a row a photo in the order of the probabilities.

    Attributes:
        labels: int32 (photos,), as given.
        suggested: int32 (photos,), the class in the confident joint; -1 where no class reaches its threshold.
        suspicion: float32 (photos,), 0 to 1: 1 - normalized margin, which is (1 + p - q) / 2 with q the probability of
            the given label and p the largest of the others.  Of a photo without probabilities 0.
    """

    labels: np.ndarray
    suggested: np.ndarray
    suspicion: np.ndarray

    def at(self, places: np.ndarray) -> "LabelIssues":
        """Those of some photos, int (n,) positions."""
        return LabelIssues(self.labels[places], self.suggested[places], self.suspicion[places])

    @property
    def suspected(self) -> np.ndarray:
        """bool (photos,), off the diagonal of the confident joint, and another class is the most probable one."""
        return (self.suggested >= 0) & (self.suggested != self.labels) & (self.suspicion > 0.5)

    def suggested_names(self, classes: list[str]) -> np.ndarray:
        """The class that each suspected photo seems to show, object (photos,); "" of the others."""
        return np.where(self.suspected, np.array(classes, dtype=object)[self.suggested], "")

    def confident_joint(self, classes: list[str]) -> pd.DataFrame:
        """The confident joint's cells that are not zero: given, suggested (class names), count; largest count first."""
        names = np.array(classes, dtype=object)
        known = self.suggested >= 0
        pairs = pd.DataFrame({"given": names[self.labels[known]], "suggested": names[self.suggested[known]]})
        return pairs.value_counts(["given", "suggested"]).rename("count").reset_index()

    def ranked(self, rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
        """The suspected photos, most suspicious first: path, row, given, suggested (class names), score (suspicion).

        Args:
            rows: the photos, of `Index.split`, in the order of the probabilities.
        """
        there = np.flatnonzero(self.suspected)
        there = there[np.argsort(-self.suspicion[there], kind="stable")]
        photos = rows.iloc[there]
        names = np.array(classes, dtype=object)
        return pd.DataFrame(
            {
                "path": photos["path"].to_numpy(),
                "row": photos["row"].to_numpy(),
                "given": names[self.labels[there]],
                "suggested": names[self.suggested[there]],
                "score": self.suspicion[there],
            }
        )


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Confident learning on probabilities of photos that the network was not trained on.

    Args:
        labels: int32 (photos,), as given.
        probabilities: float32 (photos, classes), two classes or more; may be memory-mapped, and is read in batches,
            twice.  A row of NaN: the photo was never held out, and nothing is said of it.
    """
    count = max(1, _BATCH_BYTES // (4 * probabilities.shape[1]))
    known = np.concatenate(
        [~np.isnan(probabilities[i : i + count, 0]) for i in range(0, len(labels), count)] or [np.zeros(0, bool)]
    )
    rows = np.flatnonzero(known)
    parts = [rows[i : i + count] for i in range(0, len(rows), count)]
    found = _confident_learning(
        lambda: ((labels[part], probabilities[part]) for part in parts), probabilities.shape[1], len(rows)
    )
    suggested, suspicion = np.full(len(labels), -1, np.int32), np.zeros(len(labels), np.float32)
    suggested[rows], suspicion[rows] = found
    return LabelIssues(labels, suggested, suspicion)


def find_label_issues_in_top(predictions: Predictions, classes: int) -> LabelIssues:
    """The same on a run's stored predictions of val or test, the five most probable classes of each photo.

    What they leave of 1 is shared out evenly over the other classes; that changes a suggestion only where a class
    beyond the fifth reaches its threshold and none of the five does.
    """
    labels, count = predictions.labels, max(1, _BATCH_BYTES // (4 * classes))

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for i in range(0, len(labels), count):
            part = slice(i, i + count)
            yield labels[part], spread(predictions.top_labels[part], predictions.top_probabilities[part], classes)

    return LabelIssues(labels, *_confident_learning(batches, classes, len(labels)))


def spread(top_labels: np.ndarray, top_probabilities: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of all classes, float32 (photos, classes), from those of the first k, the rest shared out evenly.

    Args:
        top_labels: int32 (photos, k); top_probabilities: float32 (photos, k).
    """
    others = classes - top_labels.shape[1]
    left = np.clip(1 - top_probabilities.sum(axis=1), 0, None) / max(1, others)
    # No other class is more probable than the last of the first k.
    left = np.minimum(left, top_probabilities[:, -1])
    dense = np.repeat(left[:, None], classes, axis=1).astype(np.float32)
    np.put_along_axis(dense, top_labels, top_probabilities, axis=1)
    return dense


def _confident_learning(batches: Callable[[], Batches], classes: int, photos: int) -> tuple[np.ndarray, np.ndarray]:
    """(suggested, suspicion), as of `LabelIssues`.

    Args:
        batches: makes an iterator over (labels, probabilities without NaN) of all photos; called twice.
    """
    from cleanlab.experimental.label_issues_batched import LabelInspector

    suggested, suspicion = np.full(photos, -1, np.int32), np.zeros(photos, np.float32)
    inspector = LabelInspector(
        num_class=classes, store_results=False, verbose=False, quality_score_kwargs={"method": "normalized_margin"}
    )
    for labels, probabilities in batches():
        inspector.update_confident_thresholds(labels, probabilities)
    first = 0
    for labels, probabilities in batches():
        # cleanlab gives a class without photos a threshold near 0, which every photo would reach.
        thresholds = np.where(inspector.examples_per_class > 0, inspector.get_confident_thresholds(), np.inf)
        quality = inspector.score_label_quality(labels, probabilities, update_num_issues=False)
        # float32: the mean of equal numbers must not lie a rounding above them.
        confident = np.where(probabilities >= thresholds.astype(np.float32) - 1e-6, probabilities, -1)
        best = confident.argmax(axis=1)
        best[confident.max(axis=1) < 0] = -1
        part = slice(first, first + len(labels))
        suggested[part] = best
        suspicion[part] = 1 - quality
        first += len(labels)
    return suggested, suspicion
