"""Losses: the mathematics as a pure function, and a thin cell around it."""

import numpy as np
from mindspore import Tensor, nn, ops


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy against (1 - smoothing) · one-hot + smoothing / classes (Szegedy et al., arXiv 1512.00567, 7).

    Args:
        logits: float (batch, classes).
        labels: int32 (batch,); or float32 (batch, classes), each row of sum 1, in place of the one-hot (mixup, CutMix).

    Returns:
        a float32 scalar; computed in float32 whatever the logits' precision.
    """
    log_probabilities = ops.log_softmax(logits.astype("float32"), -1)
    if labels.ndim == 1:  # a graph is compiled for one rank, so this is no branch in it
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
    """tau · log(share of the training photos) of each class, float32 (classes,).

    Args:
        train_counts: int (classes,); a class without photos counts as one, since a share of 0 has no finite logarithm.
    """
    counts = np.maximum(train_counts, 1)
    return (tau * np.log(counts / counts.sum())).astype(np.float32)


def logit_adjusted_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, adjustment: Tensor) -> Tensor:
    """`smoothed_cross_entropy` of logits + adjustment (Menon et al., ICLR 2021, arXiv 2007.07314, equation 10).

    Trained so, the plain logits rank the classes as if all were equally frequent; evaluation adds nothing.

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


def build_loss(loss, train_counts: np.ndarray) -> nn.Cell:
    """The cell of a `conf/loss` choice: (logits, labels) to a scalar.

    Args:
        train_counts: the photos of each class that training draws from, int (classes,).
    """
    if loss.name == "logit_adjusted":
        return LogitAdjusted(train_counts, loss.tau, loss.label_smoothing)
    return CrossEntropy(loss.label_smoothing)
