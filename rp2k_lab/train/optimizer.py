"""SGD with its learning rate by step, gradient accumulation, clipping and averaged weights."""

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from rp2k_lab.config import schema
from rp2k_lab.core.errors import RequestError
from rp2k_lab.train.schedule import cosine_schedule, scaled_rate


def clip_by_global_norm(gradients: tuple[Tensor, ...], max_norm: float) -> tuple[Tensor, ...]:
    """Return gradients scaled to a global norm of at most `max_norm` (Pascanu et al., ICML 2013)."""
    norm = ops.sqrt(sum([ops.square(gradient).sum() for gradient in gradients]))
    return ops.HyperMap()(ops.partial(ops.mul, max_norm / ops.maximum(norm, max_norm)), gradients)


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """Return decay · average + (1 - decay) · value; for a counter (int32) the value, as in timm's ModelEmaV3."""
    return decay * average + (1.0 - decay) * value if average.is_floating_point() else value


class Sgd(nn.Momentum):
    """SGD with momentum, gradient accumulation, clipping and averaged weights.

    All of it is inside the optimizer, so that `mindspore.Model` still handles precision, loss scale, sinking and the
    reduction over devices.  With all options off, the graph equals that of `nn.Momentum`.

    Args:
        groups, learning_rate, momentum, loss_scale: see `nn.Momentum`; one learning rate an update.
        accumulate_steps: calls whose mean gradient makes one update.
        clip_norm: largest norm of the mean gradient, without the loss scale; None: no clipping.
        ema_decay: decay of the averages; None: no averages.
        trained, averages: pairs of parameters; each update moves the average towards the trained value.
    """

    def __init__(
        self,
        groups: list[dict],
        learning_rate: list[float],
        momentum: float,
        loss_scale: float = 1.0,
        accumulate_steps: int = 1,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        trained: Sequence[Parameter] = (),
        averages: Sequence[Parameter] = (),
    ):
        super().__init__(groups, learning_rate, momentum, loss_scale=loss_scale)
        self.accumulate_steps, self.ema_decay = accumulate_steps, ema_decay
        self.clip_norm = clip_norm and clip_norm * loss_scale  # gradients include the loss scale
        if accumulate_steps > 1:
            self.sums = self.params.clone(prefix="accumulated", init="zeros")
            zero = Tensor(np.zeros(1, np.int32))
            self.accumulated = Parameter(zero, name="accumulated_steps", requires_grad=False)
        if ema_decay is not None:
            self.trained, self.averages = ParameterTuple(trained), ParameterTuple(averages)

    def construct(self, gradients):
        if self.accumulate_steps == 1:
            return self.update(gradients)
        return self.accumulate(gradients)

    def accumulate(self, gradients: tuple[Tensor, ...]):
        map_all = ops.HyperMap()
        map_all(ops.assign_add, self.sums, gradients)
        accumulated = ops.assign_add(self.accumulated, Tensor(np.ones(1, np.int32)))
        if accumulated == self.accumulate_steps:
            self.update(map_all(ops.partial(ops.mul, 1.0 / self.accumulate_steps), self.sums))
            map_all(_clear, self.sums)
            _clear(self.accumulated)
        return accumulated

    def update(self, gradients: tuple[Tensor, ...]):
        if self.clip_norm is not None:
            gradients = clip_by_global_norm(gradients, self.clip_norm)
        done = super().construct(gradients)
        if self.ema_decay is not None:
            done = ops.HyperMap()(ops.partial(_average, self.ema_decay), self.averages, self.trained)
        return done


def _clear(parameter):
    return ops.assign(parameter, ops.zeros_like(parameter))


def _average(decay, average, value):
    return ops.assign(average, moving_average(average, value, decay))


def build_optimizer(
    optimizer: schema.Sgd,
    net: nn.Cell,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    loss_scale: float = 1.0,
    average: nn.Cell | None = None,
) -> tuple[Sgd, np.ndarray]:
    """Return (the cell of a `conf/optimizer` choice, the learning rate of every step, float32 (steps,)).

    Weight decay acts on weights of convolutions and dense layers, not on norms and biases (He et al., arXiv
    1812.01187, section 3.1).  The schedule counts optimizer updates; accumulated steps share a rate.

    Args:
        batch_size: images of a step over all ranks.
        average: with `ema_decay`, a network equal to `net` whose parameters become the averages, including the
            statistics of batch norm.

    Raises:
        RequestError: more steps to accumulate than the run has.
    """
    steps, accumulate = epochs * steps_per_epoch, optimizer.accumulate_steps
    if accumulate > steps:
        raise RequestError(
            f"optimizer.accumulate_steps={accumulate}: the run has {steps} steps, too few for an update\n"
            f"use {steps} or less, or more epochs"
        )
    peak = scaled_rate(optimizer.lr, batch_size * accumulate, optimizer.lr_batch_size)
    warmup_updates = round(optimizer.warmup_epochs * steps_per_epoch / accumulate)
    rates = cosine_schedule(steps // accumulate, peak, optimizer.lr_end, warmup_updates)
    decayed = [p for p in net.trainable_params() if p.ndim > 1]
    rest = [p for p in net.trainable_params() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    cell = Sgd(
        groups,
        rates.tolist(),
        optimizer.momentum,
        loss_scale,
        accumulate,
        optimizer.clip_norm,
        optimizer.ema_decay,
        *((list(net.get_parameters()), list(average.get_parameters())) if average else ()),
    )
    return cell, np.pad(np.repeat(rates, accumulate), (0, steps % accumulate), "edge")
