"""`loss=focal`."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rp2k_lab.core.options import NonNegativeFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.loss import Loss

if TYPE_CHECKING:
    import numpy as np

_BISECTIONS = 60


@register("loss")
class Focal(Loss):
    """Cross-entropy with weight (1 - p)^gamma on a class of probability p (Lin et al., arXiv 1708.02002, equation 4).

    The paper's loss has one sigmoid a class; this is the form for a softmax, with no class weight alpha.
    """

    name: Literal["focal"]
    gamma: NonNegativeFloat = Field(
        description="focusing: the higher, the less do images count that are classified well; 0: cross_entropy"
    )

    def build(self, train_counts):
        from rp2k_lab.train.loss_functions import focal_loss

        smoothing, gamma = self.label_smoothing, self.gamma

        def loss(logits, labels):
            return focal_loss(logits, labels, smoothing, gamma)

        return loss

    def chance(self, targets):
        return lowest_focal_loss(self.smoothed(targets), self.gamma)


def lowest_focal_loss(targets: "np.ndarray", gamma: float) -> float:
    """Return the minimum of sum(targets · (1 - q)^gamma · -log(q)) over distributions q.

    Each summand is convex and decreases in q: at the minimum all summands have the same slope, where q < 1.  Bisection
    finds that slope, and for each slope the q of every class.

    Args:
        targets: a distribution, float64 (classes,).
        gamma: 0 or more.
    """
    import numpy as np

    targets = targets[targets > 0]
    if len(targets) == 1:
        return 0.0
    below, above = -80.0, 80.0  # log of the negative slope: the steeper, the smaller is q
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        if _probabilities_at(np.exp(middle) / targets, gamma).sum() > 1:
            below = middle
        else:
            above = middle
    q = _probabilities_at(np.exp(above) / targets, gamma)
    return float((targets * (1 - q) ** gamma * -np.log(q)).sum())


def _probabilities_at(slopes: "np.ndarray", gamma: float) -> "np.ndarray":
    """Return q in (0, 1) where (1 - q)^gamma · -log(q) has the derivatives -`slopes`, float64 (classes,)."""
    import numpy as np

    below, above = np.full_like(slopes, -100.0), np.zeros_like(slopes)  # log of q
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        rest = -np.expm1(middle)  # 1 - q
        steepness = rest**gamma / np.exp(middle) - gamma * rest ** (gamma - 1) * middle
        too_small = steepness > slopes
        below, above = np.where(too_small, middle, below), np.where(too_small, above, middle)
    return np.exp(below)
