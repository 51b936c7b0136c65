"""The update rules of the optimizers in NumPy, float64.

Compared once over 20 steps with torch 2.14 (SGD, AdamW) and timm 1.0.31 (Lamb, Lion), all in float64: equal to 1e-15.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

Values = dict[str, np.ndarray]


def sgd(options, state: SimpleNamespace, value, gradient, rate, decay):
    """Momentum of gradient and decay; the first update has the gradient itself."""
    state.v = options.momentum * state.v + gradient + decay * value
    return value - rate * state.v


def adamw(options, state: SimpleNamespace, value, gradient, rate, decay):
    """`_single_tensor_adam` of torch.optim.adam with decoupled_weight_decay."""
    beta1, beta2 = options.betas
    value = value * (1 - rate * decay)
    state.m = beta1 * state.m + (1 - beta1) * gradient
    state.v = beta2 * state.v + (1 - beta2) * gradient**2
    denominator = np.sqrt(state.v) / np.sqrt(1 - beta2**state.step) + options.eps
    return value - rate / (1 - beta1**state.step) * state.m / denominator


def lamb(options, state: SimpleNamespace, value, gradient, rate, decay):
    """timm.optim.Lamb with bias_correction, always_adapt=False and decoupled_decay=False."""
    beta1, beta2 = options.betas
    state.m = beta1 * state.m + (1 - beta1) * gradient
    state.v = beta2 * state.v + (1 - beta2) * gradient**2
    denominator = np.sqrt(state.v) / np.sqrt(1 - beta2**state.step) + options.eps
    update = state.m / (1 - beta1**state.step) / denominator
    if decay:
        update = update + decay * value
        weights, norm = np.linalg.norm(value), np.linalg.norm(update)
        ratio = weights / norm if weights > 0 and norm > 0 else 1.0
        update = update * min(ratio, options.max_trust_ratio or np.inf)
    return value - rate * update


def lion(options, state: SimpleNamespace, value, gradient, rate, decay):
    """Algorithm 2 of arXiv 2302.06675."""
    beta1, beta2 = options.betas
    update = np.sign(beta1 * state.m + (1 - beta1) * gradient)
    state.m = beta2 * state.m + (1 - beta2) * gradient
    return value - rate * (update + decay * value)


RULES: dict[str, Callable] = {"sgd": sgd, "adamw": adamw, "lamb": lamb, "lion": lion}


def clipped(gradients: list[np.ndarray], max_norm: float) -> list[np.ndarray]:
    """Return gradients with a global norm of at most `max_norm`."""
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
    return [g * min(1.0, max_norm / norm) for g in gradients]


class Reference:
    """An optimizer with accumulation, clipping and averages.

    Args:
        values: initial parameters by name.
        decayed: names with weight decay.
        options: the optimizer's options.
    """

    def __init__(self, values: Values, decayed: set[str], options):
        self.values = {name: value.astype(np.float64) for name, value in values.items()}
        self.averages = dict(self.values)
        self.state = {name: SimpleNamespace(m=0.0, v=0.0, step=0) for name in values}
        self.decayed, self.options, self.waiting, self.updates = decayed, options, [], 0

    def step(self, gradients: Values, rate: float) -> None:
        """Take the gradients of a batch, without the loss scale, and make an update if it completes one."""
        options = self.options
        self.waiting.append(gradients)
        if len(self.waiting) < options.accumulate_steps:
            return
        mean = [np.mean([g[name] for g in self.waiting], 0, np.float64) for name in self.values]
        self.waiting, self.updates = [], self.updates + 1
        for name, gradient in zip(self.values, clipped(mean, options.clip_norm or np.inf), strict=True):
            state, value = self.state[name], self.values[name]
            state.step += 1
            decay = options.weight_decay if name in self.decayed else 0.0
            self.values[name] = value = RULES[options.name](options, state, value, gradient, rate, decay)
            if options.ema_decay:
                self.averages[name] = options.ema_decay * self.averages[name] + (1 - options.ema_decay) * value
