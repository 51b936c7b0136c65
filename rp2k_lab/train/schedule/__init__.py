"""Options of the learning rate schedules: `schedule.name` chooses one; each module is a choice, conf/schedule/ has the
defaults."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from rp2k_lab.core.options import Group, NonNegativeFloat

if TYPE_CHECKING:
    import numpy as np


class Schedule(Group):
    """A learning rate for each update."""

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    warmup_epochs: NonNegativeFloat = Field(
        description="epochs of linear warm-up to the schedule's first rate, may be fractional; 0: none"
    )

    @abstractmethod
    def rates(self, updates: int, peak: float, warmup_updates: int) -> "np.ndarray":
        """Return the learning rate of every update of a run, float32 (updates,).

        Args:
            peak: the highest rate, `optimizer.lr` after its scaling with the batch.
            warmup_updates: `warmup_epochs` in updates; more than the run has: the warm-up takes the whole run.
        """


def after_warmup(warmup_updates: int, target: float, rates: "np.ndarray") -> "np.ndarray":
    """Return rates behind a linear warm-up to `target`, float32 (warmup_updates + len(rates),).

    Update i of w warm-up updates has the rate target · (i + 1) / w (Goyal et al., arXiv 1706.02677, section 2.2).
    """
    import numpy as np

    warmup = target * (np.arange(warmup_updates) + 1) / max(1, warmup_updates)
    return np.concatenate([warmup, rates]).astype(np.float32)


def remaining(updates: int) -> "np.ndarray":
    """Return the part of a decay that is left at each update, from 1 at the first to 0 at the last, float64 (updates,).

    A single update has 0.
    """
    import numpy as np

    return np.arange(updates)[::-1] / max(1, updates - 1)
