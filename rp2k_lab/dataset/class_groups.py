"""Head, medium and tail: classes grouped by their number of training images."""

import numpy as np

# Fractions of RP2K's classes with more than 100 and with fewer than 20 training images: the published quantiles of test
# images per class (docs/published.md) times 342,000 / 39,457, the ratio of train to test.
HEAD_FRACTION, TAIL_FRACTION = 0.31, 0.29
RP2K_SCALE_CLASSES = 1000
# Counts within this ratio are balanced.  A val drawn from equal classes may leave them a photo apart, at most 2 and 1.
BALANCED_RATIO = 2
GROUPS = ("head", "medium", "tail")


def class_groups(train_counts: np.ndarray, limits: tuple[int, int] | None = None) -> tuple[np.ndarray, str]:
    """Return each class's group, str (classes,) of head, medium, tail, and a text with the limits between them.

    The classes are ranked by training images; 31 % are head, 29 % tail.  Classes with equal counts are in one group: a
    border within them moves to their nearer end, up if both are equally near.  Balanced classes are medium.

    Args:
        train_counts: training images of each class.
        limits: (20, 100), of a data set at RP2K's scale (1000 classes or more): fewer than 20 training images are tail,
            more than 100 head.
    """
    groups = np.full(len(train_counts), "medium", dtype=object)
    if limits and len(train_counts) >= RP2K_SCALE_CLASSES:
        low, high = limits
        groups[train_counts > high], groups[train_counts < low] = "head", "tail"
        return groups, f"head > {high}, tail < {low} training images"
    rank = np.argsort(-train_counts, kind="stable")
    falling = train_counts[rank]
    if len(rank) and falling[0] > BALANCED_RATIO * falling[-1]:
        head = _border(falling, round(HEAD_FRACTION * len(rank)))
        tail = _border(falling, len(rank) - round(TAIL_FRACTION * len(rank)))
        groups[rank[:head]], groups[rank[tail:]] = "head", "tail"
    sizes = [f"{name} {(groups == name).sum()} classes of {_range(train_counts[groups == name])}" for name in GROUPS]
    return groups, ", ".join(sizes) + " training images"


def _border(falling: np.ndarray, rank: int) -> int:
    """Return the rank nearest to `rank`, 0 to the number of classes, that no two equal counts are astride of."""
    ends = np.flatnonzero(np.diff(falling, prepend=falling[0] + 1, append=falling[-1] - 1))
    return int(ends[np.argmin(np.abs(ends - rank))])


def _range(counts: np.ndarray) -> str:
    return f"{counts.min()}–{counts.max()}" if len(counts) else "0"
