"""`optimizer=sgd`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import Rate
from rp2k_lab.plugins import register
from rp2k_lab.train.optimizer import Optimizer


@register("optimizer")
class Sgd(Optimizer):
    """SGD with momentum as in PyTorch: v = momentum · v + gradient + decay · w, w = w - rate · v (L2 penalty)."""

    name: Literal["sgd"]
    momentum: Rate = Field(description="momentum of the gradient; 0: none")

    def rule(self):
        import mindspore
        from mindspore import Parameter, Tensor, ops

        from rp2k_lab.train.updates import Rule

        apply_momentum = ops.ApplyMomentum()
        # A parameter as in nn.Momentum: checkpoints have its name.
        momentum = Parameter(Tensor(self.momentum, mindspore.float32), name="momentum", requires_grad=False)

        def update(values, gradient, parameter, moment):
            rate, _ = values
            return apply_momentum(parameter, moment, rate, gradient, momentum)

        return Rule(update, slots=("moments",), l2_penalty=True, parameters=(momentum,))
