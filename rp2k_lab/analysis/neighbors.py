"""Which classes and which training photos are near in feature space.  By blocks: no photos × photos matrix is made."""

from collections.abc import Callable

import numpy as np

# A block of cosines: 512 photos × 64,000 training photos are 131 MB.
_PHOTOS, _TRAINING_PHOTOS = 512, 64_000


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Each class's mean feature less the mean of all classes', of length 1: float32 (classes, width).

    What is pooled behind a ReLU is positive everywhere, so that any two of its means have a cosine near 1; without
    what they share, the cosine is that of what tells classes apart.  A class without a photo has nan.

    Args:
        features: float32 (photos, width), may be a file mapped into memory.
        labels: int (photos,).
    """
    sums = np.zeros((classes, features.shape[1]), np.float64)
    for start in range(0, len(features), _TRAINING_PHOTOS):
        theirs = labels[start : start + _TRAINING_PHOTOS]
        order = np.argsort(theirs, kind="stable")
        present, first = np.unique(theirs[order], return_index=True)
        sums[present] += np.add.reduceat(features[start + order], first, axis=0, dtype=np.float64)
    counts = np.bincount(labels, minlength=classes)[:, None]
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return _unit(means - np.nanmean(means, axis=0))


def nearest(
    features: np.ndarray,
    training: np.ndarray,
    count: int,
    itself: np.ndarray | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The training photos whose features have the largest cosine with each photo's.

    Args:
        features: float32 (photos, width).
        training: float32 (training photos, width), may be a file mapped into memory.
        count: how many; fewer where there are no more.
        itself: int (photos,): the position among `training` that is the photo itself and does not count; -1: none.
        check: called between blocks; raises to stop (a signal).

    Returns:
        (positions int64 (photos, count), the nearest first; their distances 1 - cosine, float32, 0 to 2).
    """
    count = min(count, len(training) - (itself is not None))
    best = np.full((len(features), count), -np.inf, np.float32)
    where = np.zeros((len(features), count), np.int64)
    for begin in range(0, len(training), _TRAINING_PHOTOS):
        theirs = _unit(np.asarray(training[begin : begin + _TRAINING_PHOTOS]))
        for start in range(0, len(features), _PHOTOS):
            check()
            part = slice(start, start + _PHOTOS)
            cosine = _unit(np.asarray(features[part])) @ theirs.T
            if itself is not None:
                own = itself[part] - begin
                inside = np.flatnonzero((own >= 0) & (own < len(theirs)))
                cosine[inside, own[inside]] = -np.inf
            best[part], where[part] = _largest(best[part], where[part], cosine, begin)
    return where, 1 - best


def _largest(best: np.ndarray, where: np.ndarray, cosine: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray]:
    """The former best and a block's, merged: (cosines, positions), largest first."""
    count = best.shape[1]
    in_block = min(count, cosine.shape[1])
    top = np.argpartition(cosine, cosine.shape[1] - in_block, axis=1)[:, cosine.shape[1] - in_block :]
    values = np.concatenate([best, np.take_along_axis(cosine, top, 1)], axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, order, 1), np.take_along_axis(np.hstack([where, top + begin]), order, 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32; a row of zeros stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    return (rows / np.maximum(length, 1e-12)).astype(np.float32)
