"""`schedule=cosine`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import NonNegativeFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.schedule import Schedule, after_warmup, remaining


@register("schedule")
class Cosine(Schedule):
    """Half a cosine (Loshchilov & Hutter, ICLR 2017, arXiv 1608.03983, equation 5, without restarts).

    The last update has exactly `lr_end`, unless the warm-up takes all updates.
    """

    name: Literal["cosine"]
    lr_end: NonNegativeFloat = Field(description="learning rate of the last update, where the cosine ends")

    def rates(self, updates, peak, warmup_updates):
        import numpy as np

        warmup_updates = min(warmup_updates, updates)
        left = remaining(updates - warmup_updates)
        decay = self.lr_end + (peak - self.lr_end) * (1 - np.cos(np.pi * left)) / 2
        return after_warmup(warmup_updates, peak, decay)
