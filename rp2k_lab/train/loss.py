"""Losses: the formula as a pure function, and a thin cell around it."""

import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.config import schema


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


class CrossEntropy(nn.Cell):
    """`smoothed_cross_entropy` as a cell: (logits, labels) to a scalar."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def construct(self, logits, labels):
        return smoothed_cross_entropy(logits, labels, self.label_smoothing)


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


class LogitAdjusted(nn.Cell):
    """`logit_adjusted_cross_entropy` as a cell: (logits, labels) to a scalar."""

    def __init__(self, train_counts: np.ndarray, tau: float, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.adjustment = Tensor(logit_adjustment(train_counts, tau))

    def construct(self, logits, labels):
        return logit_adjusted_cross_entropy(logits, labels, self.label_smoothing, self.adjustment)


def build_loss(loss: schema.CrossEntropy | schema.LogitAdjusted, train_counts: np.ndarray) -> nn.Cell:
    """Return the cell of a `conf/loss` choice: (logits, labels) to a scalar.

    Args:
        train_counts: training images by class, int (classes,).
    """
    if loss.name == "logit_adjusted":
        return LogitAdjusted(train_counts, loss.tau, loss.label_smoothing)
    return CrossEntropy(loss.label_smoothing)
