"""Formulas of the losses, in graph mode and float32; the options that choose them are in rp2k_lab/train/loss/."""

from collections.abc import Callable

import numpy as np
from mindspore import Tensor, ops

# The smallest 1 - p of the focal loss: float32 rounds 1 - p to multiples of 6e-8, and powers below 1 have an infinite
# slope at 0.
_EPS = 1e-7


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy with label smoothing (Szegedy et al., arXiv 1512.00567, section 7).

    Args:
        logits: float (batch, classes).
        labels: int32 (batch,), or float32 (batch, classes) with rows of sum 1 (mixup, CutMix).
        smoothing: the target is (1 - smoothing) · one-hot + smoothing / classes; [0, 1).

    Returns:
        A scalar, computed in float32 for every precision of the logits.
    """
    log_probabilities = ops.log_softmax(logits.astype("float32"), -1)
    if labels.ndim == 1:  # a graph is compiled for one ndim, so it has no branch
        of_label = ops.gather_elements(log_probabilities, 1, labels.expand_dims(1)).mean()
    else:
        of_label = (labels * log_probabilities).sum(-1).mean()
    return -(1.0 - smoothing) * of_label - smoothing * log_probabilities.mean()


def logit_adjustment(train_counts: np.ndarray, tau: float) -> np.ndarray:
    """Return tau · log(fraction of the training images) by class, float32 (classes,).

    Args:
        train_counts: images by class, int (classes,); 0 counts as 1, since log(0) is infinite.
    """
    counts = np.maximum(train_counts, 1)
    return (tau * np.log(counts / counts.sum())).astype(np.float32)


def logit_adjusted_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, adjustment: Tensor) -> Tensor:
    """Return the cross-entropy of logits + adjustment (Menon et al., ICLR 2021, arXiv 2007.07314, equation 10).

    After this training the plain logits rank the classes as if all were equally frequent; evaluation adds nothing.

    Args:
        adjustment: float32 (classes,), see `logit_adjustment`.
    """
    return smoothed_cross_entropy(logits.astype("float32") + adjustment, labels, smoothing)


def logit_adjusted(train_counts: np.ndarray, tau: float, smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `logit_adjusted_cross_entropy` as a function of logits and labels."""
    adjustment = Tensor(logit_adjustment(train_counts, tau))

    def loss(logits, labels):
        return logit_adjusted_cross_entropy(logits, labels, smoothing, adjustment)

    return loss


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return targets, float32 (batch, classes), for labels or targets."""
    if labels.ndim == 2:
        return labels.astype("float32")
    return (labels.expand_dims(1) == Tensor(np.arange(classes, dtype=np.int32))).astype("float32")


def smoothed_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return targets with label smoothing, float32 (batch, classes), for labels or targets."""
    return (1.0 - smoothing) * one_hot(labels, classes) + smoothing / classes


def focal_loss(logits: Tensor, labels: Tensor, smoothing: float, gamma: float) -> Tensor:
    """Return the mean over images of sum(target · (1 - p)^gamma · -log(p)) over classes, p the softmax.

    Lin et al., arXiv 1708.02002, equation 4, for a softmax; for an image of one class without smoothing the sum is the
    paper's (1 - p_t)^gamma · -log(p_t).

    Args:
        logits, labels, smoothing: see `smoothed_cross_entropy`.
        gamma: 0 or more; 0 gives the cross-entropy.
    """
    log_probabilities = ops.log_softmax(logits.astype("float32"), -1)
    rest = ops.maximum(1.0 - ops.exp(log_probabilities), _EPS)
    targets = smoothed_targets(labels, logits.shape[-1], smoothing)
    return -(targets * ops.pow(rest, gamma) * log_probabilities).sum(-1).mean()


def binary_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, threshold: float | None, sum_classes: bool
) -> Tensor:
    """Return the binary cross-entropy of the logits' sigmoids, as timm's BinaryCrossEntropy (arXiv 2110.00476).

    Args:
        logits, labels, smoothing: see `smoothed_cross_entropy`.
        threshold: targets above it become 1, the others 0, after smoothing; None: they stay.
        sum_classes: sum over classes, then mean over images; False: mean over both.
    """
    x = logits.astype("float32")
    targets = smoothed_targets(labels, logits.shape[-1], smoothing)
    if threshold is not None:
        targets = (targets > threshold).astype("float32")
    # max(x, 0) - x · target + log(1 + exp(-|x|)): no exponential overflows.  The maximum is (x + |x|) / 2, so that the
    # derivative at 0 is 1/2 - target; a relu's derivative there is 0.
    size = ops.abs(x)
    losses = 0.5 * (x + size) - x * targets + ops.log1p(ops.exp(-size))
    return losses.sum(-1).mean() if sum_classes else losses.mean()
