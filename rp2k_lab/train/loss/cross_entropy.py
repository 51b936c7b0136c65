"""`loss=cross_entropy`."""

from typing import Literal

from rp2k_lab.plugins import register
from rp2k_lab.train.loss import Loss, entropy


@register("loss")
class CrossEntropy(Loss):
    """Softmax cross-entropy with label smoothing (Szegedy et al., arXiv 1512.00567, section 7)."""

    name: Literal["cross_entropy"]

    def build(self, train_counts):
        from rp2k_lab.train.loss_functions import smoothed_cross_entropy

        smoothing = self.label_smoothing

        def loss(logits, labels):
            return smoothed_cross_entropy(logits, labels, smoothing)

        return loss

    def chance(self, targets):
        return entropy(self.smoothed(targets))
