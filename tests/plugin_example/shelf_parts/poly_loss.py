"""loss=poly: cross-entropy with another weight of the first polynomial term (Leng et al., arXiv 2204.12511)."""

from typing import Annotated, Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.train.loss import Loss


@register("loss")
class Poly(Loss):
    """Options of Poly-1."""

    name: Literal["poly"]
    epsilon: Annotated[float, Field(ge=-1, allow_inf_nan=False)] = Field(
        description="added weight of 1 - probability of the label; 0: cross-entropy"
    )

    def build(self, train_counts):
        """Return a function of (logits, labels) that gives a scalar loss."""
        from mindspore import ops

        smoothing, epsilon = self.label_smoothing, self.epsilon

        def poly(logits, labels):
            logits = logits.astype("float32")
            targets = labels if labels.ndim == 2 else ops.one_hot(labels, logits.shape[1], 1.0, 0.0)
            targets = (1.0 - smoothing) * targets + smoothing / logits.shape[1]
            log_probabilities = ops.log_softmax(logits, -1)
            missed = 1.0 - (targets * ops.exp(log_probabilities)).sum(-1)
            return (epsilon * missed - (targets * log_probabilities).sum(-1)).mean()

        return poly

    def chance(self, targets):
        """Return None: the guard against a loss at chance level is off for this loss."""
        return None
