"""The loss of a training as a cell: a choice of conf/loss, behind the margin of the network's head."""

from collections.abc import Callable

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from rp2k_lab.model.head import HEADS, HeadOptions
from rp2k_lab.train.loss_functions import one_hot

LossFunction = Callable[[Tensor, Tensor], Tensor]
# The smallest squared sine: the slope of the square root is infinite at 0.
_EPS = 1e-6


def build_loss(loss: LossFunction, head: HeadOptions, steps_per_epoch: int, steps: int) -> nn.Cell:
    """Return a loss as a cell, (logits, labels) to a scalar, behind the head's margin if it has one.

    Args:
        loss: what `build` of a `conf/loss` choice returned.
        head: a `conf/model` choice.
        steps: of the whole run; the margin is reached by the last at the latest.
    """
    cell = loss if isinstance(loss, nn.Cell) else LossCell(loss)
    if head.logit_scale is None or head.final_margin is None:
        return cell
    rise = min(round(head.head_margin_epochs * steps_per_epoch), steps)
    margin = MarginSchedule(head.final_margin, head.head_margin_schedule, rise)
    return WithMargin(cell, margin, head.logit_scale, HEADS[head.head].margin_on == "angle")


class LossCell(nn.Cell):
    """A function as a cell: `mindspore.Model` takes no function."""

    def __init__(self, loss: LossFunction):
        super().__init__()
        self.loss = loss

    def construct(self, logits, labels):
        return self.loss(logits, labels)


class MarginSchedule(nn.Cell):
    """The margin of each training step, a scalar or float32 (1,).

    Args:
        margin: the final one.
        schedule: constant, linear (rises from 0), or cosine (rises from 0 by half a cosine).
        rise: steps until the final margin; 0: all steps have it.
    """

    def __init__(self, margin: float, schedule: str, rise: int):
        super().__init__()
        self.margin, self.rises, self.cosine = margin, schedule != "constant" and rise > 0, schedule == "cosine"
        if self.rises:
            self.rise = float(rise)
            # Saved with the weights, so that a resumed run has the same margins.
            zero = Tensor(np.zeros(1, np.int32))
            self.step = Parameter(zero, name="margin_step", requires_grad=False)

    def construct(self):
        if not self.rises:
            return self.margin
        step = ops.assign_add(self.step, Tensor(np.ones(1, np.int32)))
        return margin_at(step - 1, self.margin, self.rise, self.cosine)


def margin_at(step: Tensor, margin: float, rise: float, cosine: bool) -> Tensor:
    """Return the margin after `step` steps, float32: it rises from 0 to `margin` over `rise` steps.

    Args:
        step: int32.
        cosine: along half a cosine instead of a line.
    """
    done = ops.minimum(step.astype("float32") / rise, 1.0)
    return margin * (0.5 - 0.5 * ops.cos(np.pi * done) if cosine else done)


class WithMargin(nn.Cell):
    """A loss of logits scale · cos(angle), whose angles or cosines get a margin first.

    Args:
        loss: (logits, labels) to a scalar.
        scale: of the logits.
        on_angle: `add_to_angle` (ArcFace); False: `subtract_from_cosine` (CosFace).
    """

    def __init__(self, loss: nn.Cell, margin: MarginSchedule, scale: float, on_angle: bool):
        super().__init__(auto_prefix=False)
        self.loss, self.margin, self.scale, self.on_angle = loss, margin, scale, on_angle

    def construct(self, logits, labels):
        cosine = logits.astype("float32") / self.scale
        shift = self.margin() * one_hot(labels, logits.shape[-1])
        moved = add_to_angle(cosine, shift) if self.on_angle else subtract_from_cosine(cosine, shift)
        return self.loss(self.scale * moved, labels)


def add_to_angle(cosine: Tensor, shift: Tensor) -> Tensor:
    """Return cos(angle + shift) (ArcFace, Deng et al., arXiv 1801.07698, equation 3).

    Beyond an angle of π - shift the cosine would rise again; there the result is cosine - shift · sin(shift), as in the
    authors' code: it falls with the angle.

    Args:
        cosine: float32 (batch, classes).
        shift: margin · target, float32 (batch, classes), in radians [0, π).
    """
    sine = ops.sqrt(ops.maximum(1.0 - cosine * cosine, _EPS))
    moved = cosine * ops.cos(shift) - sine * ops.sin(shift)
    return ops.where(cosine > -ops.cos(shift), moved, cosine - shift * ops.sin(shift))


def subtract_from_cosine(cosine: Tensor, shift: Tensor) -> Tensor:
    """Return cosine - shift (CosFace, Wang et al., arXiv 1801.09414, equation 4); shift is margin · target."""
    return cosine - shift
