"""The optimizer and its learning rate by step."""

import numpy as np
from mindspore import nn


def cosine_schedule(steps: int, peak: float, end: float, warmup_steps: int = 0) -> np.ndarray:
    """Learning rate of every step, float32 (steps,): linear warm-up to `peak`, then a half cosine down to `end`.

    Loshchilov & Hutter, ICLR 2017, arXiv 1608.03983, equation 5, without restarts.  The last step has exactly `end`
    unless the warm-up takes all steps.
    """
    warmup_steps = min(warmup_steps, steps)
    warmup = peak * (np.arange(warmup_steps) + 1) / max(1, warmup_steps)
    decay_steps = steps - warmup_steps
    remaining = np.arange(decay_steps)[::-1] / max(1, decay_steps - 1)
    decay = end + (peak - end) * (1 - np.cos(np.pi * remaining)) / 2
    return np.concatenate([warmup, decay]).astype(np.float32)


def build_optimizer(optimizer, net: nn.Cell, epochs: int, steps_per_epoch: int, loss_scale: float = 1.0):
    """SGD with momentum for a `conf/optimizer` choice; returns (the cell, its learning rates float32 (steps,)).

    Weight decay acts on the weights of convolutions and dense layers, not on norms and biases (He et al., arXiv
    1812.01187, section 3.1).
    """
    steps = epochs * steps_per_epoch
    warmup_steps = round(optimizer.warmup_epochs * steps_per_epoch)
    learning_rate = cosine_schedule(steps, optimizer.lr, optimizer.lr_end, warmup_steps)
    decayed = [p for p in net.trainable_params() if p.ndim > 1]
    rest = [p for p in net.trainable_params() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    cell = nn.Momentum(groups, learning_rate.tolist(), optimizer.momentum, loss_scale=loss_scale)
    return cell, learning_rate
