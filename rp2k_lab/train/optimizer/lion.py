"""`optimizer=lion`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.plugins import register
from rp2k_lab.train.optimizer import Betas, Optimizer


@register("optimizer")
class Lion(Optimizer):
    """The sign of an interpolated momentum (Chen et al., NeurIPS 2023, arXiv 2302.06675, algorithm 2).

    Every weight moves by the rate: Lion takes a lower rate and a higher weight decay than AdamW (section 5).
    """

    name: Literal["lion"]
    betas: Betas = Field(description="parts of the momentum in the update and in the next momentum, as a list")

    def rule(self):
        from mindspore import ops

        from rp2k_lab.train.updates import Rule, sign

        beta1, beta2 = self.betas

        def prepare(step, rate, decay):
            return rate, 1.0 - rate * decay

        def update(values, gradient, parameter, momentum):
            rate, kept = values
            direction = sign(beta1 * momentum + (1.0 - beta1) * gradient)
            ops.assign(momentum, beta2 * momentum + (1.0 - beta2) * gradient)
            return ops.assign(parameter, kept * parameter - rate * direction)

        return Rule(update, slots=("exp_avg",), prepare=prepare)
