"""`schedule=constant`."""

from typing import Literal

from rp2k_lab.plugins import register
from rp2k_lab.train.schedule import Schedule, after_warmup


@register("schedule")
class Constant(Schedule):
    """The peak from the end of the warm-up to the end of the run."""

    name: Literal["constant"]

    def rates(self, updates, peak, warmup_updates):
        import numpy as np

        warmup_updates = min(warmup_updates, updates)
        return after_warmup(warmup_updates, peak, np.full(updates - warmup_updates, peak))
