"""`optimizer=adamw`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import PositiveFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.optimizer import Betas, Optimizer


@register("optimizer")
class AdamW(Optimizer):
    """Adam with decoupled weight decay as in PyTorch (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2)."""

    name: Literal["adamw"]
    betas: Betas = Field(description="decays of the averages of the gradient and of its square, as a list")
    eps: PositiveFloat = Field(description="added to the root of the averaged square")

    def rule(self):
        from mindspore import ops

        from rp2k_lab.train.updates import Rule, bias_correction

        (beta1, beta2), eps = self.betas, self.eps
        adam = ops.AdamWeightDecay()

        def prepare(step, rate, decay):
            first, second = bias_correction(beta1, step), ops.sqrt(bias_correction(beta2, step))
            # The operator corrects no bias: w -= rate · (m / (√v + eps) + decay · w)
            return rate * second / first, eps * second, decay * first / second

        def update(values, gradient, parameter, average, average_of_squares):
            rate, corrected_eps, decay = values
            return adam(parameter, average, average_of_squares, rate, beta1, beta2, corrected_eps, decay, gradient)

        return Rule(update, slots=("exp_avg", "exp_avg_sq"), prepare=prepare)
