"""What to expect of an extension: each new product, what the old ones lose, what unlisted ones do, photos needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rp2k_lab.evaluation.metric_registry import Score, fraction
from rp2k_lab.evaluation.open_set import accepted_at, auroc, conformal
from rp2k_lab.extension.extension_file import Extension
from rp2k_lab.extension.gallery import Answers, answer, class_centers

# Numbers of photos that the curve tells about.
PHOTOS = (1, 2, 3, 5, 10, 20)
_CLASSES, _DRAWS = 60, 5  # of the curve


def expected_accuracies(extension: Extension, labels: Sequence[int]) -> dict[int, Score | None]:
    """Return the share of each new product's images that its other images recognize; None for one image.

    Each image is left out in turn.  All other products compete with all their centers.

    Args:
        extension: with the products enrolled.
        labels: of the products.
    """
    enrolled = extension.enrolled
    rows = np.flatnonzero(np.isin(enrolled.labels, labels))
    own = enrolled.labels[rows]
    rivals = answer(extension.gallery, enrolled.vectors[rows], own).hidden_scores
    return {label: _left_out(enrolled.vectors[rows[own == label]], rivals[own == label]) for label in labels}


def _left_out(vectors: np.ndarray, rivals: np.ndarray) -> Score | None:
    """Return the share of a product's images that are nearer to its others than to any other product.

    Args:
        vectors: of the product, float32 (images, width).
        rivals: each image's largest cosine with another product, float32 (images,).
    """
    if len(vectors) < 2:
        return None
    others = [class_centers(np.delete(vectors, position, axis=0)) for position in range(len(vectors))]
    own = [float((centers @ vector).max()) for centers, vector in zip(others, vectors, strict=True)]
    return fraction((np.array(own) > rivals).sum(), len(vectors))


@dataclass(frozen=True)
class Forgetting:
    """The base's val images before and after an extension.

    Attributes:
        before, after: top-1 of those whose class is listed.
        stolen: number of images whose answer became a new product.
        lost: number of them that were right before.
    """

    before: Score
    after: Score
    stolen: int
    lost: int


def forgetting(before: np.ndarray, after: np.ndarray, true: np.ndarray, new: np.ndarray) -> Forgetting | None:
    """Return what val images lose; None if no class of theirs is listed.

    Args:
        before, after: answers as labels of the extension, int (images,); -1: a class that it no longer has.
        true: the same of the images' own classes.
        new: bool (classes,): products that this extension adds.
    """
    listed = true >= 0
    first = fraction((before == true)[listed].sum(), listed.sum())
    second = fraction((after == true)[listed].sum(), listed.sum())
    if first is None or second is None:
        return None
    stolen = (after >= 0) & new[after] & (before != after)
    return Forgetting(first, second, int(stolen.sum()), int((stolen & (before == true)).sum()))


@dataclass(frozen=True)
class Unlisted:
    """What products that nobody listed would do, from val images whose own class is hidden.

    Attributes:
        auroc: chance that a listed product's image has the larger score.
        fpr95: share of unlisted products' images accepted where 95 % of the listed ones' are.
        accepted: share of unlisted products' images that the threshold accepts.
        refused: share of listed products' images that the threshold refuses.
    """

    auroc: Score
    fpr95: Score
    accepted: Score
    refused: Score


def unlisted(extension: Extension, answers: Answers, true: np.ndarray, reject: float) -> Unlisted:
    """Return the measures of the threshold by leave-one-class-out.

    Args:
        answers: for the base's val images.
        true: their labels in the extension, int (images,); -1: not listed.
        reject: share of known images that may be refused.
    """
    open_set = conformal(extension.val_scores)
    known, hidden = answers.scores[true >= 0], answers.hidden_scores
    return Unlisted(
        auroc(known, hidden),
        accepted_at(known, hidden),
        _share(open_set.known(hidden, reject)),
        _share(~open_set.known(known, reject)),
    )


def _share(mask: np.ndarray) -> Score:
    score = fraction(mask.sum(), len(mask))
    assert score is not None
    return score


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy of new products of so many photos.

    Attributes:
        photos: number of photos of a product.
        accuracy: mean over products; with the interval of such a mean.
    """

    photos: int
    accuracy: Score


def photos_curve(
    extension: Extension,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray, np.ndarray],
    check: Callable[[], None],
) -> list[CurvePoint]:
    """Return how many photos a new product needs, from old ones: each is hidden and enrolled again with few photos.

    Its val images then count as right if they are nearer to these photos than to any other product.

    Args:
        train: features, float32 (images, width), and labels in the base, int (images,).
        val: whitened features of length 1, labels in the base, and each image's largest cosine with another product.
    """
    (features, labels), (vectors, true, hidden) = train, val
    rng = np.random.default_rng(0)
    present = np.intersect1d(np.unique(true), np.unique(labels))
    chosen = rng.permutation(present)[:_CLASSES]
    accuracies: dict[int, list[float]] = {count: [] for count in PHOTOS}
    for label in chosen:
        check()
        images = np.flatnonzero(true == label)
        own = extension.whitening(np.asarray(features[np.flatnonzero(labels == label)]))
        for count in PHOTOS:
            if count <= len(own):
                draws = [class_centers(own[np.sort(rng.permutation(len(own))[:count])]) for _ in range(_DRAWS)]
                right = [(vectors[images] @ centers.T).max(axis=1) > hidden[images] for centers in draws]
                accuracies[count].append(float(np.mean(right)))
    return [CurvePoint(count, _mean(values)) for count, values in accuracies.items() if len(values) >= 3]


def _mean(values: list[float]) -> Score:
    """Return the mean over products with Student's 95 % interval."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    reach = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return Score(mean, count, max(0.0, mean - reach), min(1.0, mean + reach))
