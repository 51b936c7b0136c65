"""How well new products are learned from K photos, and what old and unknown ones suffer.  Pure NumPy on features.

A set's products are divided into old ones, which the network was trained on, new ones, which are enrolled, and unknown
ones, which nobody lists.  An episode enrolls K photos of each new product into a head (`enrollment.heads`) and asks it
about all test photos.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.evaluation.open_set import accepted_at, auroc, conformal, expected_calibration_error


@dataclass(frozen=True)
class ClassSplit:
    """Old, new and unknown classes, int (classes,) each, ascending."""

    old: np.ndarray
    new: np.ndarray
    unknown: np.ndarray


def class_folds(classes: int, folds: int = 5, seed: int = 0) -> list[ClassSplit]:
    """Return class splits in which each class is new once: with five folds 20 % are new and 10 % unknown.

    The unknown classes of a split are the first half of the next fold, so no class is unknown twice.
    """
    parts = np.array_split(np.random.default_rng(seed).permutation(classes), folds)
    splits = []
    for fold, new in enumerate(parts):
        following = parts[(fold + 1) % folds]
        unknown = following[: len(following) // 2]
        old = np.setdiff1d(np.arange(classes), np.r_[new, unknown])
        splits.append(ClassSplit(old, np.sort(new), np.sort(unknown)))
    return splits


def split_within_brands(brands: Sequence[str], may_be_new: np.ndarray, new: int, unknown: int, seed: int) -> ClassSplit:
    """Return a class split in which each new or unknown class has an old one of its brand: look-alikes on both sides.

    Args:
        brands: of each class.
        may_be_new: bool (classes,), for example those with enough photos.
        new, unknown: numbers of classes.

    Raises:
        ValueError: the brands have too few classes.
    """
    left = Counter(brands)
    chosen: tuple[list[int], list[int]] = ([], [])
    for label in map(int, np.random.default_rng(seed).permutation(len(brands))):
        brand = brands[label]
        kind = 0 if may_be_new[label] and len(chosen[0]) < new else 1
        if left[brand] > 1 and len(chosen[kind]) < (new, unknown)[kind]:
            chosen[kind].append(label)
            left[brand] -= 1
    if (len(chosen[0]), len(chosen[1])) != (new, unknown):
        raise ValueError("too few classes in brands of several")
    old = np.setdiff1d(np.arange(len(brands)), np.r_[chosen[0], chosen[1]])
    return ClassSplit(old, np.sort(chosen[0]), np.sort(chosen[1]))


@dataclass(frozen=True)
class Labeled:
    """Images of an episode.

    Attributes:
        features: float32 (images, width).
        labels: int (images,): old classes from 0, then new ones; -1: unknown.
    """

    features: np.ndarray
    labels: np.ndarray

    def at(self, rows: np.ndarray) -> "Labeled":
        """Return some of the images, in the order of `rows`, int or bool."""
        return Labeled(self.features[rows], self.labels[rows])

    def joined(self, other: "Labeled") -> "Labeled":
        """Return the images of both."""
        return Labeled(np.concatenate([self.features, other.features]), np.r_[self.labels, other.labels])


@dataclass(frozen=True)
class Base:
    """A network's images before new products arrive.

    Attributes:
        train, val: of old classes.
        test: of all classes.
        new: training images of new classes, of which an episode draws.
        old: number of old classes, each with an image in train.
    """

    train: Labeled
    val: Labeled
    test: Labeled
    new: Labeled
    old: int


def build_base(features: np.ndarray, labels: np.ndarray, splits: np.ndarray, classes: ClassSplit) -> Base:
    """Return the images of a data set as a class split divides them.

    Args:
        features: float32 (images, width).
        labels: int (images,), of `classes`.
        splits: str (images,): train, val or test.
    """
    to_label = np.full(labels.max() + 1, -1)
    to_label[classes.old] = np.arange(len(classes.old))
    to_label[classes.new] = len(classes.old) + np.arange(len(classes.new))
    images, old = Labeled(features, to_label[labels]), len(classes.old)
    is_old, is_train = (images.labels >= 0) & (images.labels < old), splits == "train"
    return Base(
        train=images.at(is_old & is_train),
        val=images.at(is_old & (splits == "val")),
        test=images.at(splits == "test"),
        new=images.at((images.labels >= old) & is_train),
        old=old,
    )


def draw_photos(images: Labeled, count: int | None, seed: Sequence[int]) -> Labeled:
    """Return `count` images of each class, or all of them where it has no more; None: all."""
    if count is None:
        return images
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(images.labels == label))[:count] for label in np.unique(images.labels)]
    return images.at(np.concatenate(rows))


@dataclass(frozen=True)
class Outputs:
    """What a head says of the images of val and test.

    Attributes:
        val, test: logits, float (images, listed classes); their softmax is calibrated on val before an extension.
        known: score of each test image: the larger, the likelier its product is listed.
        hidden: the same of each val image with its own class hidden (leave one class out).
        threshold: scores of val images that decide which score is refused.
    """

    val: np.ndarray
    test: np.ndarray
    known: np.ndarray
    hidden: np.ndarray
    threshold: np.ndarray


def measure(before: Outputs, after: Outputs, base: Base, reject: float = 0.05) -> dict[str, float]:
    """Return the measures of an episode, fractions unless it says otherwise.

    Test images of old and new classes are known, also those of `new` that a head does not list; AUROC and FPR95 leave
    the latter out.  Keys:

    - new_top1, new_macro_top1: new images that are right among all listed classes; mean over images, over classes.
    - old_before, old_after, old_change: old images that are right, and the paired difference.
    - harmonic: harmonic mean of new_top1 and old_after.
    - stolen: number of old images whose answer became a new class; stolen_share: of all old images.
    - auroc, fpr95: of listed against unknown images; auroc_predicted, fpr95_predicted: of val images against
      themselves with their own class hidden.
    - open_set: images that are right and accepted, or unknown and refused; listed_refused, old_refused, new_refused:
      share that the threshold refuses, `reject` is asked; unknown_accepted, unknown_accepted_predicted.
    - ece: expected calibration error of listed images.
    """
    labels, answers = base.test.labels, after.test.argmax(axis=1)
    unknown, new = labels < 0, labels >= base.old
    old, listed = ~unknown & ~new, ~unknown & (labels < after.test.shape[1])
    right, right_before = answers == labels, before.test.argmax(axis=1) == labels
    threshold = conformal(after.threshold)
    refused = ~threshold.known(after.known, reject)
    stolen = old & (answers >= base.old)
    new_top1, old_before, old_after = right[new].mean(), right_before[old].mean(), right[old].mean()
    values = {
        "new_top1": new_top1,
        "new_macro_top1": np.mean([right[labels == label].mean() for label in np.unique(labels[new])]),
        "old_before": old_before,
        "old_after": old_after,
        "old_change": old_after - old_before,
        "harmonic": 2 * new_top1 * old_after / max(new_top1 + old_after, 1e-12),
        "stolen": stolen.sum(),
        "stolen_share": stolen[old].mean(),
        "auroc": auroc(after.known[listed], after.known[unknown]).value,
        "fpr95": accepted_at(after.known[listed], after.known[unknown]).value,
        "auroc_predicted": auroc(after.threshold, after.hidden).value,
        "fpr95_predicted": accepted_at(after.threshold, after.hidden).value,
        "open_set": np.where(unknown, refused, right & ~refused).mean(),
        "listed_refused": refused[listed].mean(),
        "old_refused": refused[old].mean(),
        "new_refused": refused[new].mean(),
        "unknown_accepted": 1 - refused[unknown].mean(),
        "unknown_accepted_predicted": threshold.known(after.hidden, reject).mean(),
        "ece": expected_calibration_error(softmax(after.test[listed]).max(axis=1), right[listed]),
    }
    return {name: float(value) for name, value in values.items()}


def interval_over_splits(values: np.ndarray, splits: np.ndarray) -> tuple[float, float, float, float]:
    """Return (mean, low, high, sd between draws) of values of class splits and draws within them.

    The mean over splits of their means over draws, with Student's 95 % interval of the split means: five splits give
    four degrees of freedom.  Draws are nested in splits, so the variance of the split means contains the draws', and
    clustering by split and by (split, draw) reduces to clustering by split (Cameron, Gelbach and Miller, Journal of
    Business & Economic Statistics 29, 2011).  Where the split means happen to lie closer together than their draws
    allow, the draws' variance decides.  The last number, the pooled sd of draws within a split, is what another team's
    K photos would change.

    Args:
        values, splits: (episodes,).
    """
    from scipy.stats import t

    groups = [values[splits == split] for split in np.unique(splits)]
    means, count = np.array([group.mean() for group in groups]), len(groups)
    freedom = sum(len(group) - 1 for group in groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / max(1, freedom)
    of_draws = within * sum(1 / len(group) for group in groups) / count**2
    if count < 2:
        return float(means.mean()), float("nan"), float("nan"), float(np.sqrt(within))
    error = np.sqrt(max(means.var(ddof=1) / count, of_draws))
    reach = float(t.ppf(0.975, count - 1) * error)
    return float(means.mean()), float(means.mean() - reach), float(means.mean() + reach), float(np.sqrt(within))
