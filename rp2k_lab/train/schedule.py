"""Learning rates by step."""

import numpy as np


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


def scaled_rate(rate: float, photos_per_update: int, meant_for: int | None) -> float:
    """The linear scaling rule (Goyal et al., arXiv 1706.02677, section 2.1); None: the rate as it is."""
    return rate if meant_for is None else rate * photos_per_update / meant_for
