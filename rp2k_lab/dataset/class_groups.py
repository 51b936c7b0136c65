"""Head, medium and tail: classes grouped by their number of training images."""

import numpy as np

# Fractions of RP2K's classes with more than 100 and with fewer than 20 training images: the published quantiles of test
# images per class (docs/published.md) times 342,000 / 39,457, the ratio of train to test.
HEAD_FRACTION, TAIL_FRACTION = 0.31, 0.29
RP2K_SCALE_CLASSES = 1000
GROUPS = ("head", "medium", "tail")


def class_groups(train_counts: np.ndarray) -> tuple[np.ndarray, str]:
    """Return each class's group, str (classes,) of head, medium, tail, and a text with the limits between them.

    At RP2K's scale (1000 classes or more): more than 100, 20 to 100, fewer than 20 training images.  Elsewhere the
    same fractions of the classes, ranked by training images (ties by label).
    """
    groups = np.full(len(train_counts), "medium", dtype=object)
    if len(train_counts) >= RP2K_SCALE_CLASSES:
        groups[train_counts > 100], groups[train_counts < 20] = "head", "tail"
        return groups, "head > 100, tail < 20 training images"
    rank = np.argsort(-train_counts, kind="stable")
    head, tail = round(HEAD_FRACTION * len(rank)), round(TAIL_FRACTION * len(rank))
    groups[rank[:head]], groups[rank[len(rank) - tail :]] = "head", "tail"
    sizes = [f"{name} {(groups == name).sum()} classes of {_range(train_counts[groups == name])}" for name in GROUPS]
    return groups, ", ".join(sizes) + " training images"


def _range(counts: np.ndarray) -> str:
    return f"{counts.min()}–{counts.max()}" if len(counts) else "0"
