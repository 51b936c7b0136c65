"""`loss=logit_adjusted`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import NonNegativeFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.loss import Loss, entropy


@register("loss")
class LogitAdjusted(Loss):
    """Cross-entropy of logits + tau · log(class frequencies) (Menon et al., arXiv 2007.07314, equation 10)."""

    name: Literal["logit_adjusted"]
    tau: NonNegativeFloat = Field(
        description="weight of the log class frequencies; 1: consistent with balanced accuracy; 0: cross_entropy"
    )
    balances = True

    def build(self, train_counts):
        from rp2k_lab.train.loss_functions import logit_adjusted

        return logit_adjusted(train_counts, self.tau, self.label_smoothing)

    def chance(self, targets):
        return entropy(self.smoothed(targets))  # the adjustment shifts constant logits, but not their lowest loss
