"""Losses: the mathematics as a pure function, and a thin cell around it."""

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
