"""Stop training when the loss becomes NaN or infinite."""

import math
from collections.abc import Callable
from pathlib import Path

from rp2k_lab.core.errors import TrainingDiverged
from rp2k_lab.train.callbacks.base import Callback, TrainingState


class NanGuard(Callback):
    """A guard that raises TrainingDiverged at the first NaN or infinite loss, before the step's weights are saved.

    Args:
        last_checkpoint: file of the last checkpoint, which may not exist.
        record: called with (state, reason); writes a record and returns a text on it.
    """

    def __init__(self, last_checkpoint: Path, record: Callable[[TrainingState, str], str]):
        self._last_checkpoint, self._record = last_checkpoint, record

    def step_end(self, state):
        if math.isfinite(state.loss):
            return
        exists = self._last_checkpoint.exists()
        saved = f"the last good checkpoint is {self._last_checkpoint}" if exists else "no checkpoint yet"
        rate = state.learning_rate[state.step - 1]
        raise TrainingDiverged(
            f"loss={state.loss} at step {state.step} (epoch {state.epoch}), learning rate {rate:.3g}, "
            f"{self._record(state, 'the loss is NaN or infinite')}; {saved}\n"
            "try a smaller optimizer.lr or more schedule.warmup_epochs"
        )
