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

        from rp2k_lab.model import custom_operators
        from rp2k_lab.train.updates import Rule

        apply_momentum = ops.ApplyMomentum()
        # A parameter as in nn.Momentum: checkpoints have its name.
        momentum = Parameter(Tensor(self.momentum, mindspore.float32), name="momentum", requires_grad=False)

        def update(values, gradient, parameter, moment):
            rate, decay = values
            if custom_operators.in_use(parameter.dtype):
                decay = Tensor(decay, mindspore.float32)
                return custom_operators.update_by_momentum(parameter, moment, gradient, rate, momentum, decay)
            if decay > 0:
                gradient = gradient + decay * parameter
            return apply_momentum(parameter, moment, rate, gradient, momentum)

        return Rule(update, slots=("moments",), parameters=(momentum,))
