"""`schedule=step`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rp2k_lab.plugins import register
from rp2k_lab.train.schedule import Schedule


@register("schedule")
class Step(Schedule):
    """The peak times `factor` for each milestone behind (He et al., CVPR 2016, arXiv 1512.03385, section 3.4).

    PyTorch's MultiStepLR, with milestones that fit every number of epochs.  They count from the start of the run, with
    the warm-up, which multiplies the first rates.
    """

    name: Literal["step"]
    milestones: tuple[float, ...] = Field(
        strict=False, description="fractions of the run at which the rate drops, in order: 0.333 is epoch 30 of 90"
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(description="factor of the rate at each milestone")

    @field_validator("milestones")
    @classmethod
    def _check_milestones(cls, milestones):
        if not milestones or not all(0 < fraction < 1 for fraction in milestones):
            raise ValueError("needs fractions of the run between 0 and 1, for example [0.5,0.75]")
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("needs each milestone after the one before it, for example [0.5,0.75]")
        return milestones

    def rates(self, updates, peak, warmup_updates):
        import numpy as np

        position = np.arange(updates)
        drops = (position[:, None] >= np.round(np.multiply(self.milestones, updates))).sum(1)
        warmup = np.minimum(1.0, (position + 1) / max(1, min(warmup_updates, updates)))
        return (peak * self.factor**drops * warmup).astype(np.float32)
