"""Nearest classes and training images in feature space, computed by blocks without an images × images matrix."""

from collections.abc import Callable

import numpy as np

from rp2k_lab.core.progress import progress
from rp2k_lab.extension.gallery import unit

# A block of cosines: 512 images × 64,000 training images are 131 MB.
_IMAGES, _TRAINING_IMAGES = 512, 64_000


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return each class's mean feature minus the mean over classes, scaled to length 1: float32 (classes, width).

    Features behind a ReLU are positive, so that the cosine of any two raw means is near 1; centered means separate
    classes.  A class without images has NaN.

    Args:
        features: float32 (images, width), possibly memory-mapped.
        labels: int (images,).
    """
    sums = np.zeros((classes, features.shape[1]), np.float64)
    for start in range(0, len(features), _TRAINING_IMAGES):
        block_labels = labels[start : start + _TRAINING_IMAGES]
        order = np.argsort(block_labels, kind="stable")
        present, first = np.unique(block_labels[order], return_index=True)
        sums[present] += np.add.reduceat(features[start + order], first, axis=0, dtype=np.float64)
    counts = np.bincount(labels, minlength=classes)[:, None]
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return unit(means - np.nanmean(means, axis=0))


def nearest(
    features: np.ndarray,
    training: np.ndarray,
    count: int,
    itself: np.ndarray | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images whose features have the largest cosine with each image's features.

    Args:
        features: float32 (images, width).
        training: float32 (training images, width), possibly memory-mapped.
        count: neighbors for each image; fewer if `training` is smaller.
        itself: int (images,): each image's own position in `training`, which is skipped; -1: none.
        check: called between blocks; raises to stop (a signal).

    Returns:
        (positions int64 (images, count), nearest first; their distances 1 - cosine, float32, 0 to 2).
    """
    count = min(count, len(training) - (itself is not None))
    best = np.full((len(features), count), -np.inf, np.float32)
    positions = np.zeros((len(features), count), np.int64)
    for begin in range(0, len(training), _TRAINING_IMAGES):
        block = unit(np.asarray(training[begin : begin + _TRAINING_IMAGES]))
        starts = range(0, len(features), _IMAGES)
        for start in progress(starts, len(starts), "searching the nearest training photos, blocks"):
            check()
            part = slice(start, start + _IMAGES)
            cosine = unit(np.asarray(features[part])) @ block.T
            if itself is not None:
                own = itself[part] - begin
                inside = np.flatnonzero((own >= 0) & (own < len(block)))
                cosine[inside, own[inside]] = -np.inf
            best[part], positions[part] = _largest(best[part], positions[part], cosine, begin)
    return positions, 1 - best


def _largest(best: np.ndarray, positions: np.ndarray, cosine: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the best cosines so far with a block's, and return (cosines, positions), largest first."""
    count = best.shape[1]
    in_block = min(count, cosine.shape[1])
    top = np.argpartition(cosine, cosine.shape[1] - in_block, axis=1)[:, cosine.shape[1] - in_block :]
    values = np.concatenate([best, np.take_along_axis(cosine, top, 1)], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, order, 1), np.take_along_axis(np.hstack([positions, top + begin]), order, 1)
