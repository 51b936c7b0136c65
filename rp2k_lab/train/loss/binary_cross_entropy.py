"""`loss=binary_cross_entropy`."""

from typing import Annotated, Literal

from pydantic import Field

from rp2k_lab.plugins import register
from rp2k_lab.train.loss import Loss, entropy


@register("loss")
class BinaryCrossEntropy(Loss):
    """A sigmoid and a binary cross-entropy for each class (Wightman et al., arXiv 2110.00476, section 3.2).

    As timm's BinaryCrossEntropy.  With mixup or CutMix and `target_threshold`, an image has up to two classes.
    """

    name: Literal["binary_cross_entropy"]
    target_threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="a class whose target is larger gets target 1, the others 0; null: targets stay as they are"
    )
    sum_classes: bool = Field(description="true: sum over classes, mean over images; false: mean over both")

    def build(self, train_counts):
        from rp2k_lab.train.loss_functions import binary_cross_entropy

        smoothing, threshold, sum_classes = self.label_smoothing, self.target_threshold, self.sum_classes

        def loss(logits, labels):
            return binary_cross_entropy(logits, labels, smoothing, threshold, sum_classes)

        return loss

    def chance(self, targets):
        if self.target_threshold is not None:
            return None  # the mean target does not determine how many targets of mixed images are larger
        smoothed = self.smoothed(targets)
        total = entropy(smoothed) + entropy(1 - smoothed)
        return total if self.sum_classes else total / len(targets)
