"""Heads that learn new products from photos, for `enrollment.protocol`.  Pure NumPy (and SciPy's optimizer).

A head is built for a base once, and then enrolls the photos of an episode: `Enroll` maps them to its outputs.  Without
photos these are the outputs before the extension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rp2k_lab.enrollment.protocol import Base, Labeled, Outputs
from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.evaluation.open_set import fit_temperature
from rp2k_lab.extension.gallery import (
    MAX_CENTERS,
    SHRINKAGE,
    Gallery,
    answer_scores,
    build_gallery,
    divided_by_head,
    fit_whitening,
    log_softmax,
    unit,
)

Enroll = Callable[[Labeled], Outputs]
_ALL = 10**9  # centers of a class: each photo is one


@dataclass(frozen=True)
class Linear:
    """A linear classifier: weight float32 (width, classes), bias (classes,)."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return logits (images, classes)."""
        return features @ self.weight + self.bias


def linear_of(features: np.ndarray, logits: np.ndarray) -> Linear:
    """Return the linear classifier that gave these logits (images, classes) to features (images, width)."""
    with_bias = np.c_[features, np.ones(len(features))].astype(np.float64)
    solution = np.linalg.lstsq(with_bias, logits.astype(np.float64), rcond=None)[0].astype(np.float32)
    return Linear(solution[:-1], solution[-1])


def prototype(base: Base, whitened: bool = True, shrinkage: float = SHRINKAGE) -> Enroll:
    """Return the head of one center a class, the mean of its vectors of length 1."""
    return _gallery_head(base, _prototypes, whitened, shrinkage)


def centers(base: Base, most: int = MAX_CENTERS, shrinkage: float = SHRINKAGE, whitened: bool = True) -> Enroll:
    """Return the head of `task=extend task.old=centers`: at most `most` centers a class, the largest cosine counts."""
    return _gallery_head(base, partial(build_gallery, most=most), whitened, shrinkage)


def nearest_photo(base: Base, whitened: bool = True, shrinkage: float = SHRINKAGE) -> Enroll:
    """Return the head of the nearest photo (1-NN)."""
    return centers(base, _ALL, shrinkage, whitened)


def _prototypes(vectors: np.ndarray, labels: np.ndarray) -> Gallery:
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, labels, vectors)
    return Gallery(unit(sums), np.arange(len(sums), dtype=np.int32))


def _gallery_head(
    base: Base, build: Callable[[np.ndarray, np.ndarray], Gallery], whitened: bool, shrinkage: float
) -> Enroll:
    transform = fit_whitening(base.train.features, base.train.labels, shrinkage) if whitened else unit
    vectors = {name: transform(getattr(base, name).features) for name in ("val", "test")}
    gallery = build(transform(base.train.features), base.train.labels)
    old = {name: gallery.scores(each) for name, each in vectors.items()}
    scale = 1 / fit_temperature(old["val"], base.val.labels)

    def enroll(images: Labeled) -> Outputs:
        cosines = old
        if len(images.labels):
            new = build(transform(images.features), images.labels - base.old)
            cosines = {name: np.c_[old[name], new.scores(each)] for name, each in vectors.items()}
        return Outputs(
            val=scale * cosines["val"],
            test=scale * cosines["test"],
            known=cosines["test"].max(axis=1),
            hidden=answer_scores(cosines["val"], base.val.labels).hidden_scores,
            threshold=old["val"].max(axis=1),
        )

    return enroll


def with_trained_head(enroll: Enroll, base: Base, head: Linear) -> Enroll:
    """Return a gallery head in which a trained head tells old classes apart, as `task=extend task.old=head` does."""
    logits = {name: head(getattr(base, name).features) for name in ("val", "test")}
    temperature = fit_temperature(logits["val"], base.val.labels)

    def joined(images: Labeled) -> Outputs:
        outputs = enroll(images)
        parts = {
            name: divided_by_head(log_softmax(getattr(outputs, name)), each / temperature)
            for name, each in logits.items()
        }
        return Outputs(parts["val"], parts["test"], outputs.known, outputs.hidden, outputs.threshold)

    return joined


def ridge(base: Base, penalty: float, shrinkage: float = SHRINKAGE) -> Enroll:
    """Return ridge regression of whitened vectors onto classes, in which each class weighs alike.

    Args:
        penalty: in units of the mean eigenvalue of the second moment.
    """
    whitening = fit_whitening(base.train.features, base.train.labels, shrinkage)
    old = _moments(_with_one(whitening(base.train.features)), base.train.labels, 0)
    val, test = (_with_one(whitening(part.features)) for part in (base.val, base.test))

    def solve(images: Labeled) -> tuple[np.ndarray, np.ndarray]:
        second, means = old
        if len(images.labels):
            new_second, new_means = _moments(_with_one(whitening(images.features)), images.labels, base.old)
            second, means = second + new_second, np.c_[means, new_means]
        mean_eigenvalue = np.trace(second) / len(second)
        weight = np.linalg.solve(second + penalty * mean_eigenvalue * np.eye(len(second), dtype=np.float32), means)
        return val @ weight, test @ weight

    scale = 1 / fit_temperature(solve(base.new.at(np.zeros(0, int)))[0], base.val.labels)

    def enroll(images: Labeled) -> Outputs:
        scores = solve(images)
        return _of_logits(base, scale * scores[0], scale * scores[1])

    return enroll


def _with_one(vectors: np.ndarray) -> np.ndarray:
    return np.c_[vectors, np.ones(len(vectors), np.float32)]


def _moments(vectors: np.ndarray, labels: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (sum over classes of the mean of x xᵀ, means as columns) of classes `first`, `first` + 1, …"""
    counts = np.bincount(labels - first)
    weighted = vectors / counts[labels - first, None].astype(np.float32)
    means = np.zeros((len(counts), vectors.shape[1]), np.float32)
    np.add.at(means, labels - first, weighted)
    return vectors.T @ weighted, means.T


def untouched(base: Base, head: Linear) -> Enroll:
    """Return the trained head, which never learns a new product."""
    temperature = fit_temperature(head(base.val.features), base.val.labels)
    outputs = _of_logits(base, *(head(part.features) / temperature for part in (base.val, base.test)))
    return lambda images: outputs


def fine_tuned(base: Base, head: Linear, steps: int = 100, rate: float = 0.05, momentum: float = 0.9) -> Enroll:
    """Return naive fine-tuning: the head goes through `steps` of gradient descent on the new photos alone.

    Its rows for new classes start at zero.  Rate and momentum are the defaults of a training of this project.
    """
    temperature = fit_temperature(head(base.val.features), base.val.labels)

    def enroll(images: Labeled) -> Outputs:
        tuned = descend(head, images, steps, rate, momentum)
        return _of_logits(base, *(tuned(part.features) / temperature for part in (base.val, base.test)))

    return enroll


def descend(head: Linear, images: Labeled, steps: int, rate: float, momentum: float) -> Linear:
    """Return the head after gradient descent on the mean cross-entropy of images; classes that it lacks start at 0."""
    if not len(images.labels):
        return head
    more = max(0, int(images.labels.max()) + 1 - len(head.bias))
    weight = np.pad(np.r_[head.weight, head.bias[None]], ((0, 0), (0, more)))
    vectors, velocity = _with_one(images.features), np.zeros_like(weight)
    rows = np.arange(len(vectors))
    for _ in range(steps):
        gap = softmax(vectors @ weight)
        gap[rows, images.labels] -= 1
        velocity = momentum * velocity + vectors.T @ gap / len(vectors)
        weight = weight - rate * velocity
    return Linear(weight[:-1], weight[-1])


def retrained(base: Base, penalty: float, rounds: int = 60) -> Enroll:
    """Return full retraining: logistic regression on old training images and new photos together."""
    start = fit_logistic(base.train, penalty, rounds)
    temperature = fit_temperature(start(base.val.features), base.val.labels)

    def enroll(images: Labeled) -> Outputs:
        head = fit_logistic(base.train.joined(images), penalty, rounds, start) if len(images.labels) else start
        return _of_logits(base, *(head(part.features) / temperature for part in (base.val, base.test)))

    return enroll


def fit_logistic(images: Labeled, penalty: float, rounds: int = 60, start: Linear | None = None) -> Linear:
    """Return multinomial logistic regression on standardized features by L-BFGS.

    Args:
        penalty: times half the squared weights, added to the mean cross-entropy.
        rounds: largest number of steps.
        start: a solution for some of the classes, which only shortens the way.
    """
    from scipy.optimize import minimize

    mean, deviation = images.features.mean(axis=0), images.features.std(axis=0) + np.float32(1e-6)
    vectors = _with_one((images.features - mean) / deviation)
    rows, classes = np.arange(len(vectors)), int(images.labels.max()) + 1
    initial = np.zeros((vectors.shape[1], classes), np.float32)
    if start is not None:
        initial[:-1, : len(start.bias)] = start.weight * deviation[:, None]
        initial[-1, : len(start.bias)] = start.bias + mean @ start.weight

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(initial.shape).astype(np.float32)
        gap = softmax(vectors @ weight)
        value = -np.log(np.maximum(gap[rows, images.labels], 1e-30)).mean(dtype=np.float64)
        gap[rows, images.labels] -= 1
        gradient = vectors.T @ gap / np.float32(len(vectors))
        gradient[:-1] += np.float32(penalty) * weight[:-1]
        value += penalty / 2 * float((weight[:-1] ** 2).sum())
        return value, gradient.astype(np.float64).ravel()

    flat = minimize(loss, initial.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": rounds}).x
    weight = flat.reshape(initial.shape).astype(np.float32)
    scaled = weight[:-1] / deviation[:, None]
    return Linear(scaled, weight[-1] - mean @ scaled)


def _of_logits(base: Base, val: np.ndarray, test: np.ndarray) -> Outputs:
    """Return the outputs of a head whose largest logit tells known from unknown (arXiv 1911.11132)."""
    return Outputs(val, test, test.max(axis=1), answer_scores(val, base.val.labels).hidden_scores, val.max(axis=1))
