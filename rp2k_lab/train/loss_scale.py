"""The training step with a dynamic loss scale (Micikevicius et al., ICLR 2018, arXiv 1710.03740, section 3.2)."""

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

# Those of PyTorch's GradScaler; MindSpore's own 2²⁴ would skip the first steps of most trainings.
INITIAL_SCALE, FACTOR, WINDOW = 2.0**16, 2, 2000


class DynamicScaleStep(nn.TrainOneStepWithLossScaleCell):
    """A training step that skips the update where a gradient is infinite or NaN, and halves the loss scale then.

    The scale doubles after WINDOW steps without an overflow.  The gradients reach the optimizer without the scale,
    which is a power of two, so that it changes no bit of a gradient that float16 can hold.  A skipped step changes
    neither weights nor the optimizer: its learning rate is used by the next step.

    It calls an optimizer on CPU as well, where MindSpore 2.10 refuses its own cell.  All of its state are parameters,
    so checkpoints hold it.

    Args:
        network: (images, labels) to the loss, a float32 scalar.
        optimizer: built with a loss scale of 1.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Optimizer):
        super().__init__(network, optimizer, nn.DynamicLossScaleUpdateCell(INITIAL_SCALE, FACTOR, WINDOW))
        self.on_cpu = mindspore.get_context("device_target") == "CPU"
        self.skipped = Parameter(Tensor(np.zeros(1, np.int32)), name="skipped_steps", requires_grad=False)

    def construct(self, images, labels):
        """Return (loss; whether the step was skipped; loss scale; steps skipped so far, int32 (1,))."""
        loss, overflow, scale = super().construct(images, labels)
        return loss, overflow, scale, ops.assign_add(self.skipped, overflow.astype("int32").reshape(1))

    def get_overflow_status(self, status, compute_output):
        """Return whether a gradient is infinite or NaN, a bool scalar; the ranks' gradients are averaged by then."""
        if self.on_cpu:  # MindSpore 2.10's CPU has no FloatStatus
            return ops.addn(self.hyper_map(_overflow, compute_output)) > 0
        return super().get_overflow_status(status, compute_output)


def _overflow(gradient: Tensor) -> Tensor:
    return 1.0 - ops.isfinite(gradient).all().astype("float32")
