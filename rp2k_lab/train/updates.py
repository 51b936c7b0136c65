"""Updates of a network: an optimizer's rule with accumulation, clipping, averaged weights and parameter groups."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from rp2k_lab.core.errors import RequestError
from rp2k_lab.train.optimizer import Optimizer
from rp2k_lab.train.schedule import Schedule

# Prefix of the parameters of a network whose average is evaluated (train/build.py).
TRAINED = "trained."


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        batch_size: images of a step over all ranks.
        loss_scale: factor of the loss, and so of the gradients.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    loss_scale: float = 1.0

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


def _rate_and_decay(step: Tensor, rate: Tensor, decay: float) -> tuple[Tensor, float]:
    return rate, decay


@dataclass(frozen=True)
class Rule:
    """What an optimizer does in an update; `UpdateCell` compiles it, so the functions are written for graph mode.

    Attributes:
        update: (values, gradient, parameter, *state) changes the parameter and its state in place.  `gradient` is the
            clipped mean, without the loss scale; `state` has one tensor of the parameter's shape for each of `slots`.
        slots: names of the state, up to three.  It starts with zeros; checkpoints have it as <slot>.<parameter>.
        prepare: (step, rate, decay) to the `values` of a group of parameters.  `step`: 1 in the first update, float32
            scalar; `rate`: its learning rate, float32 scalar; `decay`: its weight decay, a Python number.
        l2_penalty: add decay · parameter to the gradient before `update`.
        parameters: other parameters that `update` uses, for the checkpoints.
    """

    update: Callable[..., Any]
    slots: tuple[str, ...]
    prepare: Callable[..., Any] = _rate_and_decay
    l2_penalty: bool = False
    parameters: tuple[Parameter, ...] = ()


# Parts of rules.


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """Return 1 - beta^step, float32: in float32 the power's error is a ten-thousandth of it (beta 0.999, step 1)."""
    return -ops.expm1(step * (math.log(beta) if beta else -math.inf))


def norm(x: Tensor) -> Tensor:
    """Return the L2 norm; on CPU, two sums over an axis take a tenth of the time of one over several."""
    return ops.sqrt(ops.square(x).reshape(x.shape[0], -1).sum(1).sum())


def sign(x: Tensor) -> Tensor:
    """Return the sign of x, 0 for 0; on CPU, `ops.sign` takes ten times as long.  Exact from 1e-37 on."""
    return ops.tanh(x * 3e38)


# Around the rules.


def clip_by_global_norm(gradients: tuple[Tensor, ...], max_norm: float) -> tuple[Tensor, ...]:
    """Return gradients scaled to a global norm of at most `max_norm` (Pascanu et al., ICML 2013)."""
    norm = ops.sqrt(sum(ops.HyperMap()(_squared_norm, gradients)))
    return ops.HyperMap()(ops.partial(ops.mul, max_norm / ops.maximum(norm, max_norm)), gradients)


def _squared_norm(gradient: Tensor) -> Tensor:
    return ops.square(gradient).sum()


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """Return decay · average + (1 - decay) · value; for a counter (int32) the value, as in timm's ModelEmaV3."""
    return decay * average + (1.0 - decay) * value if average.is_floating_point() else value


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one weight decay and one learning rate: `factor` times the schedule's."""

    parameters: list[Parameter]
    decay: float
    factor: float = 1.0


class UpdateCell(nn.Optimizer):
    """A rule with gradient accumulation, clipping and averaged weights.

    All of it is inside the optimizer, so that `mindspore.Model` still handles precision, loss scale, sinking and the
    reduction over devices.  With SGD and all options off, the graph has the operators of `nn.Momentum`.

    Args:
        rates: a learning rate for each update.
        options: accumulate_steps: calls whose mean gradient makes one update; clip_norm: largest norm of the mean
            gradient, without the loss scale; ema_decay: decay of the averages.  The other keys are not used.
        averages: with `ema_decay`, (trained parameters, their averages): each update moves the average towards the
            trained value.
    """

    def __init__(
        self,
        rule: Rule,
        groups: Sequence[ParameterGroup],
        rates: np.ndarray,
        options: Optimizer,
        loss_scale: float = 1.0,
        averages: tuple[Iterable[Parameter], Iterable[Parameter]] = ((), ()),
    ):
        # nn.Optimizer multiplies the decay by the loss scale, as the gradients are at that point.
        decays = [group.decay if rule.l2_penalty else 0.0 for group in groups]
        parameters = [{"params": g.parameters, "weight_decay": d} for g, d in zip(groups, decays, strict=True)]
        super().__init__(rates.tolist(), parameters, loss_scale=loss_scale)
        self.rule_update, self.prepare, self.num_slots = rule.update, rule.prepare, len(rule.slots)
        self.rule_parameters = ParameterTuple(rule.parameters)
        slots = [self.parameters.clone(prefix=slot, init="zeros") for slot in rule.slots]
        self.slot0, self.slot1, self.slot2 = *slots, *[self.parameters] * (3 - len(slots))
        ends = np.cumsum([len(group.parameters) for group in groups]).tolist()
        self.groups = tuple(
            (end - len(g.parameters), end, g.decay, g.factor) for g, end in zip(groups, ends, strict=True)
        )
        self.accumulate_steps, self.ema_decay = options.accumulate_steps, options.ema_decay
        self.clip_norm = options.clip_norm and options.clip_norm * loss_scale  # gradients include the loss scale
        if self.accumulate_steps > 1:
            self.sums = self.parameters.clone(prefix="accumulated", init="zeros")
            zero = Tensor(np.zeros(1, np.int32))
            self.accumulated = Parameter(zero, name="accumulated_steps", requires_grad=False)
        if self.ema_decay is not None:
            self.trained, self.averages = (ParameterTuple(each) for each in averages)

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
        gradients = self.scale_grad(self.decay_weight(gradients))
        rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.global_step.reshape(()).astype("float32")
        done = ()
        for first, end, decay, factor in self.groups:
            values = self.prepare(step, rate if factor == 1.0 else rate * factor, decay)
            done += (self.update_group(ops.partial(self.rule_update, values), gradients, first, end),)
        if self.ema_decay is not None:
            done = ops.HyperMap()(ops.partial(_average, self.ema_decay), self.averages, self.trained)
        return ops.depend(True, done)  # parameters as outputs would be copied

    def update_group(self, update: Callable[..., Any], gradients: tuple[Tensor, ...], first: int, end: int):
        """Apply the rule to the parameters first … end - 1; a call in a graph takes no `*slots`."""
        map_all, gradients, parameters = self.hyper_map_reverse, gradients[first:end], self.parameters[first:end]
        if self.num_slots == 0:
            return map_all(update, gradients, parameters)
        if self.num_slots == 1:
            return map_all(update, gradients, parameters, self.slot0[first:end])
        if self.num_slots == 2:
            return map_all(update, gradients, parameters, self.slot0[first:end], self.slot1[first:end])
        slots = self.slot0[first:end], self.slot1[first:end], self.slot2[first:end]
        return map_all(update, gradients, parameters, slots[0], slots[1], slots[2])


def _clear(parameter):
    return ops.assign(parameter, ops.zeros_like(parameter))


def _average(decay, average, value):
    return ops.assign(average, moving_average(average, value, decay))


# Groups of parameters.

# Never decayed, whatever their shape: tables of positions and tokens (Swin, section A2; ViT in timm), LayerScale.
_NOT_DECAYED = {"relative_position_bias_table", "pos_embed", "cls_token", "gamma"}
_JOINS = math.inf  # at the end of a key: the same layer as the parameters before it
# Names to the order of the layers, those of each family's `group_matcher` in timm 1.0.31, with the numbers in the name.
_LAYERS: tuple[tuple[re.Pattern[str], tuple[float, ...], tuple[float, ...]], ...] = tuple(
    (re.compile(pattern), before, after)
    for pattern, before, after in (
        (r"(?:conv1|bn1|conv_stem|stem|patch_embed|conv2d_[12]\w)\.|(?:pos_embed|cls_token)$", (0,), ()),
        (r"conv2d_[34]\w\.", (1,), ()),  # Inception-ResNet-v2
        (r"mixed_5b\.", (2,), ()),
        (r"repeat\.(\d+)\.", (3,), ()),
        (r"mixed_6a\.", (4,), ()),
        (r"repeat_1\.(\d+)\.", (5,), ()),
        (r"mixed_7a\.", (6,), ()),
        (r"repeat_2\.(\d+)\.", (7,), ()),
        (r"(?:block8|conv2d_7b)\.", (8,), ()),
        (r"layer(\d+)\.(\d+)\.", (1,), ()),  # ResNet
        (r"bam(\d+)\.", (1,), (_JOINS,)),
        (r"(?:layers|stages)\.(\d+)\.blocks\.(\d+)\.", (1,), ()),  # Swin, ConvNeXt
        (r"(?:layers|stages)\.(\d+)\.downsample\.", (1,), (0,)),
        (r"blocks\.(\d+)\.(\d+)\.", (1,), ()),  # EfficientNet
        (r"blocks\.(\d+)\.", (1,), ()),  # ViT
        (r"(?:norm|conv_head|bn2)\.", (9,), (_JOINS,)),
    )
)
_HEAD = re.compile(r"(?:fc|widen)\.")


def is_decayed(name: str, ndim: int) -> bool:
    """Return whether weight decay acts on a parameter: on weights, not on norms, biases and tables of positions.

    He et al., arXiv 1812.01187, section 3.1.
    """
    return ndim > 1 and name.rpartition(".")[2] not in _NOT_DECAYED


def layers_of(names: Iterable[str]) -> dict[str, int]:
    """Return the layer of each parameter of a network: 0 for the stem, then each block, the head last.

    The layers are timm's; a final norm belongs to the last block, in ConvNeXt to the head.

    Raises:
        ValueError: a parameter of no known family; names it.
    """
    names = list(names)
    is_convnext = any(name.startswith("stages.") for name in names)
    keys = {}
    for name in names:
        in_head = _HEAD.match(name) or (is_convnext and name.startswith("norm."))
        keys[name] = (math.inf, 0) if in_head else _layer_key(name)
    layers, number = {}, -1
    for key in sorted(set(keys.values())):
        number += number < 0 or key[-1] != _JOINS
        layers[key] = number
    return {name: layers[key] for name, key in keys.items()}


def _layer_key(name: str) -> tuple[float, ...]:
    for pattern, before, after in _LAYERS:
        if match := pattern.match(name):
            return (*before, *map(int, match.groups()), *after)
    raise ValueError(name)


def rate_factors(optimizer: Optimizer, names: Sequence[str]) -> list[float]:
    """Return the factor of each parameter's learning rate, by `layer_decay` and `backbone_factor`.

    Raises:
        RequestError: `layer_decay` with a network whose layers are unknown.
    """
    factors = [1.0 if _HEAD.match(name) else optimizer.backbone_factor for name in names]
    if optimizer.layer_decay is None:
        return factors
    try:
        layers = layers_of(names)
    except ValueError as error:
        raise RequestError(
            f"optimizer.layer_decay={optimizer.layer_decay:g}: the layer of {error} is unknown\n"
            "use optimizer.layer_decay=null"
        ) from None
    last = max(layers.values())
    return [f * optimizer.layer_decay ** (last - layers[name]) for f, name in zip(factors, names, strict=True)]


def parameter_groups(optimizer: Optimizer, parameters: Sequence[Parameter]) -> list[ParameterGroup]:
    """Return the groups of a network's trainable parameters, in their order: the decayed ones, then the others.

    Raises:
        RequestError: see `rate_factors`.
    """
    names = [parameter.name.removeprefix(TRAINED) for parameter in parameters]
    factors = rate_factors(optimizer, names)
    members: dict[tuple[bool, float], list[Parameter]] = {}
    for parameter, name, factor in zip(parameters, names, factors, strict=True):
        members.setdefault((not is_decayed(name, parameter.ndim), factor), []).append(parameter)
    return [ParameterGroup(members[key], 0.0 if key[0] else optimizer.weight_decay, key[1]) for key in sorted(members)]


def scaled_rate(rate: float, images_per_update: int, reference_batch_size: int | None) -> float:
    """Return the linearly scaled learning rate (Goyal et al., arXiv 1706.02677, section 2.1); None: no scaling."""
    return rate if reference_batch_size is None else rate * images_per_update / reference_batch_size


def build_optimizer(
    optimizer: Optimizer, schedule: Schedule, net: nn.Cell, plan: Plan, average: nn.Cell | None = None
) -> tuple[UpdateCell, np.ndarray]:
    """Return (the cell of a `conf/optimizer` choice, the learning rate of every step, float32 (steps,)).

    The rates are those of the head; `layer_decay` and `backbone_factor` multiply them.  The schedule counts optimizer
    updates; accumulated steps share a rate.

    Args:
        average: with `ema_decay`, a network equal to `net` whose parameters become the averages, including the
            statistics of batch norm.

    Raises:
        RequestError: more steps to accumulate than the run has, or see `rate_factors`.
    """
    steps, accumulate = plan.steps, optimizer.accumulate_steps
    if accumulate > steps:
        raise RequestError(
            f"optimizer.accumulate_steps={accumulate}: the run has {steps} steps, too few for an update\n"
            f"use {steps} or less, or more epochs"
        )
    peak = scaled_rate(optimizer.lr, plan.batch_size * accumulate, optimizer.lr_batch_size)
    warmup_updates = round(schedule.warmup_epochs * plan.steps_per_epoch / accumulate)
    rates = schedule.rates(steps // accumulate, peak, warmup_updates)
    groups = parameter_groups(optimizer, net.trainable_params())
    averages = (net.get_parameters(), average.get_parameters()) if average else ((), ())
    cell = UpdateCell(optimizer.rule(), groups, rates, optimizer, plan.loss_scale, averages)
    return cell, np.pad(np.repeat(rates, accumulate), (0, steps % accumulate), "edge")
