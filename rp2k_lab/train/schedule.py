"""Learning rate schedules."""

import numpy as np


def cosine_schedule(steps: int, peak: float, end: float, warmup_steps: int = 0) -> np.ndarray:
    """Return the learning rate of every step, float32 (steps,): linear warm-up to `peak`, half a cosine to `end`.

    Loshchilov & Hutter, ICLR 2017, arXiv 1608.03983, equation 5, without restarts.  The last step has exactly `end`
    unless the warm-up takes all steps.
    """
    warmup_steps = min(warmup_steps, steps)
    warmup = peak * (np.arange(warmup_steps) + 1) / max(1, warmup_steps)
    decay_steps = steps - warmup_steps
    remaining = np.arange(decay_steps)[::-1] / max(1, decay_steps - 1)
    decay = end + (peak - end) * (1 - np.cos(np.pi * remaining)) / 2
    return np.concatenate([warmup, decay]).astype(np.float32)


def scaled_rate(rate: float, images_per_update: int, reference_batch_size: int | None) -> float:
    """Return the linearly scaled learning rate (Goyal et al., arXiv 1706.02677, section 2.1); None: no scaling."""
    return rate if reference_batch_size is None else rate * images_per_update / reference_batch_size
