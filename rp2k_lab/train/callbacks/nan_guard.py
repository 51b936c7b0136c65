"""Stops a training whose loss is no number any more."""

import math
from collections.abc import Callable
from pathlib import Path

from rp2k_lab.core.errors import TrainingDiverged
from rp2k_lab.train.callbacks.base import Callback, TrainingState


class NanGuard(Callback):
    """Raises TrainingDiverged at the first loss that is NaN or infinite, before that step's weights are saved.

    Args:
        last_checkpoint: where it would be.
        record: writes down the state for a reason, and says where.
    """

    def __init__(self, last_checkpoint: Path, record: Callable[[TrainingState, str], str]):
        self._last_checkpoint, self._record = last_checkpoint, record

    def step_end(self, state):
        if math.isfinite(state.loss):
            return
        saved = self._last_checkpoint.exists()
        good = f"the last good checkpoint is {self._last_checkpoint}" if saved else "no checkpoint yet"
        rate = state.learning_rate[state.step - 1]
        raise TrainingDiverged(
            f"loss={state.loss} at step {state.step} (epoch {state.epoch}), learning rate {rate:.3g}, "
            f"{self._record(state, 'the loss is no number')}; {good}\n"
            "try a smaller optimizer.lr or more optimizer.warmup_epochs"
        )
