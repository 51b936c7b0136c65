"""`schedule=one_cycle`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rp2k_lab.core.options import Fraction
from rp2k_lab.plugins import register
from rp2k_lab.train.schedule import Schedule, after_warmup

if TYPE_CHECKING:
    import numpy as np

Divisor = Annotated[float, Field(ge=1, allow_inf_nan=False)]


@register("schedule")
class OneCycle(Schedule):
    """Half a cosine up to the peak, another down (Smith & Topin, arXiv 1708.07120, section 3).

    PyTorch's OneCycleLR with cosines and two phases, for the rate alone: the momentum stays.
    """

    name: Literal["one_cycle"]
    pct_start: Fraction = Field(description="fraction of the cycle in which the rate rises")
    div_factor: Divisor = Field(description="peak / rate of the first update")
    final_div_factor: Divisor = Field(description="rate of the first update / rate of the last update")

    def rates(self, updates, peak, warmup_updates):
        import numpy as np

        warmup_updates = min(warmup_updates, updates)
        cycle = updates - warmup_updates
        first = peak / self.div_factor
        last = first / self.final_div_factor
        # Update `top` has the peak; PyTorch's is no integer unless pct_start · cycle is one.
        top = self.pct_start * cycle - 1
        position = np.arange(cycle)
        rise = _cosine(first, peak, position / top if top > 0 else np.ones(cycle))
        fall = _cosine(peak, last, (position - top) / (cycle - 1 - top) if top < cycle - 1 else np.zeros(cycle))
        return after_warmup(warmup_updates, first, np.where(position <= top, rise, fall))


def _cosine(start: float, end: float, fraction: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return end + (start - end) / 2 * (1 + np.cos(np.pi * fraction))
