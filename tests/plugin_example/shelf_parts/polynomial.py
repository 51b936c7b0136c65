"""schedule=polynomial: (1 - progress) to a power (Chen et al., DeepLab, arXiv 1606.00915, section 4.1)."""

from typing import Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.core.options import PositiveFloat
from rp2k_lab.train.schedule import Schedule, after_warmup, remaining


@register("schedule")
class Polynomial(Schedule):
    """Options of the polynomial decay."""

    name: Literal["polynomial"]
    power: PositiveFloat = Field(description="exponent of the remaining part of the run; 1: a straight line")

    def rates(self, updates, peak, warmup_updates):
        """Return the learning rate of every update, float32 (updates,)."""
        warmup_updates = min(warmup_updates, updates)
        return after_warmup(warmup_updates, peak, peak * remaining(updates - warmup_updates) ** self.power)
