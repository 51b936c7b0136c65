"""`loss=balanced_softmax`."""

from typing import Literal

from rp2k_lab.plugins import register
from rp2k_lab.train.loss import Loss, entropy


@register("loss")
class BalancedSoftmax(Loss):
    """Cross-entropy of a softmax weighted by the class counts (Ren et al., arXiv 2007.10740, equation 3).

    It equals `loss=logit_adjusted loss.tau=1`.
    """

    name: Literal["balanced_softmax"]
    balances = True

    def build(self, train_counts):
        from rp2k_lab.train.loss_functions import logit_adjusted

        return logit_adjusted(train_counts, 1.0, self.label_smoothing)

    def chance(self, targets):
        return entropy(self.smoothed(targets))
