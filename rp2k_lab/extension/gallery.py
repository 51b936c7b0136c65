"""Whitened features, at most five centers a class, and the cosines of images with them.  Pure NumPy.

The whitening of within-class scatter is that of linear discriminant analysis (Fukunaga, Introduction to Statistical
Pattern Recognition, 1990, chapter 10); centers as classifier weights are weight imprinting (Qi et al., arXiv
1712.07136).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

# Part of the within-class covariance that is replaced by its mean variance: directions without scatter stay finite.
SHRINKAGE = 0.1
MAX_CENTERS = 5
_ROUNDS = 20  # of k-means
# Rows of features at a time: 64,000 × 512 float32 are 131 MB.
_ROWS = 64_000
# Centers in a matrix product: with a constant shape a cosine has the same bits whatever the number of centers, which
# OpenBLAS 0.3.30 gives up for two images.
_BLOCK = 256


@dataclass(frozen=True)
class Whitening:
    """Features to vectors of length 1 in which all directions scatter alike within a class.

    Attributes:
        mean: float32 (width,).
        matrix: float32 (width, width).
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return float32 (images, width), rows of length 1, of features, float32 (images, width)."""
        return unit((np.asarray(features, np.float32) - self.mean) @ self.matrix)


def fit_whitening(
    features: np.ndarray, labels: np.ndarray, shrinkage: float = SHRINKAGE, check: Callable[[], None] = lambda: None
) -> Whitening:
    """Return the whitening of training images: their mean, and the inverse root of the within-class covariance.

    Args:
        features: float32 (images, width), possibly memory-mapped.
        labels: int (images,); each class that has images is one.
        shrinkage: see SHRINKAGE.
        check: called between blocks; raises to stop (a signal).

    Raises:
        ValueError: a feature is NaN or infinite.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    width, counts = features.shape[1], np.bincount(labels)
    sums, scatter = np.zeros((len(classes), width)), np.zeros((width, width))
    for part, block in _blocks(features, check):
        order = np.argsort(labels[part], kind="stable")
        present, first = np.unique(labels[part][order], return_index=True)
        sums[present] += np.add.reduceat(block[order], first, axis=0, dtype=np.float64)
    means = sums / counts[:, None]
    for part, block in _blocks(features, check):  # centered first: float32 products would lose small differences
        centered = block - means[labels[part]].astype(np.float32)
        scatter += centered.T @ centered
    if not np.isfinite(scatter).all():
        raise ValueError("a feature is NaN or infinite")
    covariance = scatter / max(1, len(labels) - len(classes))
    variance = np.trace(covariance) / width or 1.0  # 0: a single image a class
    root = np.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * variance * np.eye(width))
    mean = (sums.sum(axis=0) / len(labels)).astype(np.float32)
    return Whitening(mean, np.ascontiguousarray(np.linalg.inv(root).T, np.float32))


def _blocks(features: np.ndarray, check: Callable[[], None]) -> Iterator[tuple[slice, np.ndarray]]:
    for begin in range(0, len(features), _ROWS):
        check()
        yield slice(begin, begin + _ROWS), np.asarray(features[begin : begin + _ROWS])


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows, float32 (n, width), divided by their lengths; a row of zeros stays zero."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    return (rows / np.maximum(length, 1e-12)).astype(np.float32)


def class_centers(vectors: np.ndarray, most: int = MAX_CENTERS) -> np.ndarray:
    """Return the centers of one class, float32 (at most `most`, width), of length 1.

    They are its vectors if there are no more; else those of spherical k-means (Dhillon and Modha, Machine Learning 42,
    2001), started by k-means++ from a fixed seed.  They depend on nothing but the vectors and their order.

    Args:
        vectors: float32 (images, width), of length 1.
    """
    if len(vectors) <= most:
        return vectors
    centers = _spread(vectors, most)
    nearest = np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        cosines = vectors @ centers.T
        assigned = cosines.argmax(axis=1)
        if (assigned == nearest).all():
            break
        nearest = assigned
        sums = np.zeros_like(centers)
        np.add.at(sums, nearest, vectors)
        empty = np.bincount(nearest, minlength=most) == 0
        sums[empty] = centers[empty]
        centers = unit(sums)
    return centers


def _spread(vectors: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the vectors, each drawn by its squared distance from those before (k-means++)."""
    rng = np.random.default_rng(0)
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.maximum(2 - 2 * (vectors @ vectors[chosen[-1]]), 0))
        total = distance.sum(dtype=np.float64)
        if total <= 0:  # copies of one image
            chosen.append(chosen[-1])
        else:
            chosen.append(int(rng.choice(len(vectors), p=distance.astype(np.float64) / total)))
    return vectors[chosen]


@dataclass(frozen=True)
class Gallery:
    """The centers of all classes, one class after another.

    Attributes:
        centers: float32 (centers, width), of length 1.
        labels: int32 (centers,), ascending; each class has one center or more.
    """

    centers: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels[-1]) + 1 if len(self.labels) else 0

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return each class's largest cosine, float32 (images, classes), for vectors, float32 (images, width)."""
        cosines, labels, starts = self._cosines(vectors), self.labels, self._starts()
        scores = cosines[:, starts]
        position = np.arange(len(labels)) - starts[labels]  # of a center within its class
        for each in range(1, position.max(initial=0) + 1):  # a fifth of the time of np.maximum.reduceat along rows
            columns = np.flatnonzero(position == each)
            scores[:, labels[columns]] = np.maximum(scores[:, labels[columns]], cosines[:, columns])
        return scores

    def _cosines(self, vectors: np.ndarray) -> np.ndarray:
        cosines = np.empty((len(vectors), len(self.centers)), np.float32)
        for begin in range(0, len(self.centers), _BLOCK):
            block = self.centers[begin : begin + _BLOCK]
            padded = np.concatenate([block, np.zeros((_BLOCK - len(block), block.shape[1]), np.float32)])
            cosines[:, begin : begin + _BLOCK] = (vectors @ padded.T)[:, : len(block)]
        return cosines

    def _starts(self) -> np.ndarray:
        return np.searchsorted(self.labels, np.arange(self.classes))


def build_gallery(vectors: np.ndarray, labels: np.ndarray, most: int = MAX_CENTERS) -> Gallery:
    """Return the gallery of vectors, float32 (images, width), by their labels, int (images,), from 0 without gaps."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(1, int(labels.max()) + 1))
    parts = [class_centers(vectors[rows], most) for rows in np.split(order, starts)]
    return join_galleries([Gallery(part, np.zeros(len(part), np.int32)) for part in parts])


def join_galleries(parts: Sequence[Gallery]) -> Gallery:
    """Return the gallery of the classes of several, in order."""
    offsets = np.cumsum([0, *(part.classes for part in parts)])
    labels = [part.labels + offset for part, offset in zip(parts, offsets, strict=False)]
    return Gallery(np.concatenate([part.centers for part in parts]), np.concatenate(labels).astype(np.int32))


@dataclass(frozen=True)
class Answers:
    """The score of each image, and what it would be if its own class were not listed.

    Attributes:
        scores: the largest cosine with a center, float32 (images,).
        hidden_scores: the same without the image's own class.
    """

    scores: np.ndarray
    hidden_scores: np.ndarray


def answer(
    gallery: Gallery, vectors: np.ndarray, true: np.ndarray, check: Callable[[], None] = lambda: None
) -> Answers:
    """Return the answers for vectors, float32 (images, width); leave-one-class-out hides each image's true class.

    Args:
        true: int (images,); -1: no class of the gallery.
    """
    parts = []
    for begin in range(0, max(len(vectors), 1), 2048):
        check()
        part = slice(begin, begin + 2048)
        parts.append(answer_scores(gallery.scores(vectors[part]), true[part]))
    return Answers(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Answers)))


def answer_scores(scores: np.ndarray, true: np.ndarray) -> Answers:
    """Return `answer` for the classes' scores of images, float32 (images, classes)."""
    rows, hidden = np.flatnonzero(true >= 0), scores.copy()
    hidden[rows, true[rows]] = -np.inf
    return Answers(scores.max(axis=1), hidden.max(axis=1))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities, (images, classes), in the logits' type."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divided_by_head(log_probabilities: np.ndarray, head_logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities in which a trained head divides the sum of the first classes, those of its logits.

    Args:
        log_probabilities: float (images, classes).
        head_logits: float (images, first classes).
    """
    old = head_logits.shape[1]
    highest = log_probabilities[:, :old].max(axis=1, keepdims=True)
    total = highest + np.log(np.exp(log_probabilities[:, :old] - highest).sum(axis=1, keepdims=True))
    return np.concatenate([total + log_softmax(head_logits), log_probabilities[:, old:]], axis=1)
