"""`schedule=linear`."""

from typing import Literal

from pydantic import Field

from rp2k_lab.core.options import NonNegativeFloat
from rp2k_lab.plugins import register
from rp2k_lab.train.schedule import Schedule, after_warmup, remaining


@register("schedule")
class Linear(Schedule):
    """A straight line from the peak to `lr_end` (Li et al., ICLR 2020, arXiv 1905.04753).

    The last update has exactly `lr_end`, unless the warm-up takes all updates.
    """

    name: Literal["linear"]
    lr_end: NonNegativeFloat = Field(description="learning rate of the last update, where the line ends")

    def rates(self, updates, peak, warmup_updates):
        warmup_updates = min(warmup_updates, updates)
        decay = self.lr_end + (peak - self.lr_end) * remaining(updates - warmup_updates)
        return after_warmup(warmup_updates, peak, decay)
