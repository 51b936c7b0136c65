"""optimizer=signum: the sign of the momentum (Bernstein et al., ICML 2018, arXiv 1802.04434)."""

from typing import Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.core.options import Rate
from rp2k_lab.train.optimizer import Optimizer


@register("optimizer")
class Signum(Optimizer):
    """Options of Signum; accumulation, clipping, averaging and the groups without decay come from the base."""

    name: Literal["signum"]
    momentum: Rate = Field(description="momentum of the gradient; 0: none")

    def rule(self):
        """Return what an update does with a parameter, its gradient and its momentum."""
        from mindspore import ops

        from rp2k_lab.train.updates import Rule, sign

        beta = self.momentum

        def prepare(step, rate, decay):
            return rate, 1.0 - rate * decay

        def update(values, gradient, parameter, momentum):
            rate, kept = values
            ops.assign(momentum, beta * momentum + (1.0 - beta) * gradient)
            return ops.assign(parameter, kept * parameter - rate * sign(momentum))

        return Rule(update, slots=("momentum",), prepare=prepare)
