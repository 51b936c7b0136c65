"""Options of the losses: `loss.name` chooses one; each module is a choice, conf/loss/ has the defaults.

The formulas are in rp2k_lab/train/loss_functions.py: they import MindSpore, which takes two seconds.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rp2k_lab.core.options import Fraction, Group, PositiveFloat, Rate

if TYPE_CHECKING:
    import numpy as np
    from mindspore import Tensor


class Loss(Group):
    """A loss.

    Attributes:
        balances: whether it makes up for rare classes, so that `dataset.sampler=class_balanced` would do it twice.
    """

    if TYPE_CHECKING:
        name: str  # each choice declares its own
    balances: ClassVar[bool] = False

    label_smoothing: Rate = Field(
        description="probability moved from the label to the uniform distribution over all classes"
    )
    distillation: Fraction = Field(
        description="weight of agreement with the teachers, which task=train takes from runs=; 0: no teachers"
    )
    temperature: PositiveFloat = Field(
        description="divisor of the logits in `distillation`; a high one raises the weight of small probabilities"
    )

    @abstractmethod
    def build(self, train_counts: "np.ndarray") -> "Callable[[Tensor, Tensor], Tensor]":
        """Return the loss as a cell, or as a function that MindSpore compiles.

        It takes logits, float (batch, classes), and labels, int32 (batch,), or with mixup and CutMix float32
        (batch, classes) with rows of sum 1; it returns a float32 scalar, computed in float32 for every precision of the
        logits.

        Args:
            train_counts: training images by class, int (classes,).
        """

    def chance(self, targets: "np.ndarray") -> float | None:
        """Return the lowest loss of a constant prediction, for the chance guard; None: unknown, so there is no guard.

        Args:
            targets: mean target of the training images without label smoothing, float64 (classes,), sum 1.
        """
        return None

    def smoothed(self, targets: "np.ndarray") -> "np.ndarray":
        """Return targets, float64 (…, classes), with label smoothing."""
        return (1 - self.label_smoothing) * targets + self.label_smoothing / targets.shape[-1]


def entropy(targets: "np.ndarray") -> float:
    """Return the entropy of a distribution, float64 (classes,): the lowest cross-entropy of a constant prediction."""
    import numpy as np

    positive = targets[targets > 0]
    return float(-(positive * np.log(positive)).sum())
