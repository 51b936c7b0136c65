"""The optimizer, its learning rate by step, and what may stand around it: accumulation, clipping, averaged weights."""

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from rp2k_lab.core.errors import RequestError
from rp2k_lab.train.schedule import cosine_schedule, scaled_rate


def clip_by_global_norm(gradients: tuple[Tensor, ...], max_norm: float) -> tuple[Tensor, ...]:
    """All scaled by the same factor so that the norm of the whole is at most `max_norm` (Pascanu et al., ICML 2013)."""
    norm = ops.sqrt(sum([ops.square(gradient).sum() for gradient in gradients]))
    return ops.HyperMap()(ops.partial(ops.mul, max_norm / ops.maximum(norm, max_norm)), gradients)


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """decay · average + (1 - decay) · value; of a counter (int32) the value itself, as timm's ModelEmaV3."""
    return decay * average + (1.0 - decay) * value if average.is_floating_point() else value


class Sgd(nn.Momentum):
    """SGD with momentum; before it gradients may be accumulated and clipped, and after it weights averaged.

    All of that lies inside the optimizer, so that precision, loss scale, sinking and the reduction over devices stay
    those of `mindspore.Model`.  With none of it on, the graph is that of `nn.Momentum`.

    Args:
        groups, learning_rate, momentum, loss_scale: as of `nn.Momentum`; the rates are those of the updates.
        accumulate_steps: calls whose mean gradient makes one update.
        clip_norm: largest norm of that mean, without the loss scale; None: not clipped.
        ema_decay: of the averages; None: none are kept.
        trained, averages: pairs of parameters; after an update each average moves towards what was trained.
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
        self.clip_norm = clip_norm and clip_norm * loss_scale  # the gradients come multiplied
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

    def accumulate(self, gradients):
        for_all = ops.HyperMap()
        for_all(ops.assign_add, self.sums, gradients)
        accumulated = ops.assign_add(self.accumulated, Tensor(np.ones(1, np.int32)))
        if accumulated == self.accumulate_steps:
            self.update(for_all(ops.partial(ops.mul, 1.0 / self.accumulate_steps), self.sums))
            for_all(_clear, self.sums)
            _clear(self.accumulated)
        return accumulated

    def update(self, gradients):
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
    optimizer,
    net: nn.Cell,
    epochs: int,
    steps_per_epoch: int,
    batch_size: int,
    loss_scale: float = 1.0,
    average: nn.Cell | None = None,
) -> tuple[Sgd, np.ndarray]:
    """(the cell of a `conf/optimizer` choice, the learning rate of every step, float32 (steps,)).

    Weight decay acts on the weights of convolutions and dense layers, not on norms and biases (He et al., arXiv
    1812.01187, section 3.1).  Warm-up and cosine go by updates; the steps of one update share its rate.

    Args:
        average: with `ema_decay`, a network of the same build whose parameters become the averages of those of `net`,
            batch norm's statistics included.

    Raises:
        RequestError: more steps to accumulate than the run has.
    """
    steps, together = epochs * steps_per_epoch, optimizer.accumulate_steps
    if together > steps:
        raise RequestError(
            f"optimizer.accumulate_steps={together}: the run has {steps} steps, so nothing would be learned\n"
            f"use {steps} or less, or more epochs"
        )
    peak = scaled_rate(optimizer.lr, batch_size * together, optimizer.lr_batch_size)
    warmup_updates = round(optimizer.warmup_epochs * steps_per_epoch / together)
    rates = cosine_schedule(steps // together, peak, optimizer.lr_end, warmup_updates)
    decayed = [p for p in net.trainable_params() if p.ndim > 1]
    rest = [p for p in net.trainable_params() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    cell = Sgd(
        groups,
        rates.tolist(),
        optimizer.momentum,
        loss_scale,
        together,
        optimizer.clip_norm,
        optimizer.ema_decay,
        *((list(net.get_parameters()), list(average.get_parameters())) if average else ()),
    )
    return cell, np.pad(np.repeat(rates, together), (0, steps % together), "edge")
