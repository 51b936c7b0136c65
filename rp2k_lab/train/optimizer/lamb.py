"""`optimizer=lamb`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import PositiveFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.optimizer import Betas, Optimizer


@register("optimizer")
class Lamb(Optimizer):
    """AdamW's direction, with the norm of the weights in each layer (You et al., ICLR 2020, arXiv 1904.00962).

    Algorithm 2 as in timm and NVIDIA's FusedLAMB: with bias correction; parameters without weight decay get AdamW's
    update.
    """

    name: Literal["lamb"]
    weight_decay: PositiveFloat = Field(
        description="decay of weights of convolutions and dense layers; the others have none, and AdamW's update"
    )
    betas: Betas = Field(description="decays of the averages of the gradient and of its square, as a list")
    eps: PositiveFloat = Field(description="added to the root of the averaged square")
    max_trust_ratio: PositiveFloat | None = Field(
        description="largest factor of a layer's rate, norm of its weights / norm of its update; null: no limit"
    )

    def rule(self):
        from mindspore import ops

        from rp2k_lab.train.updates import Rule, bias_correction, norm

        (beta1, beta2), eps, max_trust_ratio = self.betas, self.eps, self.max_trust_ratio

        def prepare(step, rate, decay):
            first, second = bias_correction(beta1, step), ops.sqrt(bias_correction(beta2, step))
            return rate, decay, second / first, eps * second

        def update(values, gradient, parameter, average, average_of_squares):
            rate, decay, correction, corrected_eps = values
            new_average = beta1 * average + (1.0 - beta1) * gradient
            new_squares = beta2 * average_of_squares + (1.0 - beta2) * ops.square(gradient)
            ops.assign(average, new_average)
            ops.assign(average_of_squares, new_squares)
            direction = correction * (new_average / (ops.sqrt(new_squares) + corrected_eps))
            if decay > 0:  # a constant, so the graph has no branch
                direction = direction + decay * parameter
                rate = rate * trust_ratio(norm(parameter), norm(direction))
            return ops.assign_sub(parameter, rate * direction)

        def trust_ratio(weights, direction):
            # A ratio of 1 where one of the norms is 0.
            both = ops.logical_and(weights > 0, direction > 0)
            ratio = ops.select(both, weights / direction, ops.ones_like(weights))
            return ratio if max_trust_ratio is None else ops.minimum(ratio, max_trust_ratio)

        return Rule(update, slots=("exp_avg", "exp_avg_sq"), prepare=prepare)
