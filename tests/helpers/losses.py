"""A loss for tests of networks and optimizers, and losses in NumPy and float64."""

import numpy as np
from mindspore import nn

from rp2k_lab.train.loss_functions import smoothed_cross_entropy


class CrossEntropy(nn.Cell):
    """The formula of `loss=cross_entropy` as a cell, for `mindspore.Model`."""

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing

    def construct(self, logits, labels):
        return smoothed_cross_entropy(logits, labels, self.smoothing)


def smoothed(labels, classes, smoothing):
    """Return targets with label smoothing for labels (batch,) or targets (batch, classes)."""
    targets = np.eye(classes)[labels] if labels.ndim == 1 else labels.astype(np.float64)
    return (1 - smoothing) * targets + smoothing / classes


def log_softmax(logits):
    """Return the logarithms of the softmax of each row."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def cross_entropy(logits, labels, smoothing):
    """Return the mean cross-entropy, for labels (batch,) or targets (batch, classes)."""
    return -(smoothed(labels, logits.shape[1], smoothing) * log_softmax(logits)).sum(1).mean()
