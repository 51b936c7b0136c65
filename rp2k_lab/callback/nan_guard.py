"""Stops a training whose loss is no number any more."""

import math
from pathlib import Path

from rp2k_lab.callback.base import Callback
from rp2k_lab.errors import TrainingDiverged


class NanGuard(Callback):
    """Raises TrainingDiverged at the first loss that is NaN or infinite, before that step's weights are saved."""

    def __init__(self, last_checkpoint: Path):
        self._last_checkpoint = last_checkpoint

    def step_end(self, state):
        if math.isfinite(state.loss):
            return
        saved = self._last_checkpoint.exists()
        good = f"the last good checkpoint is {self._last_checkpoint}" if saved else "no checkpoint yet"
        rate = state.learning_rate[state.step - 1]
        raise TrainingDiverged(
            f"loss={state.loss} at step {state.step} (epoch {state.epoch}), learning rate {rate:.3g}; {good}\n"
            "try a smaller optimizer.lr or more optimizer.warmup_epochs"
        )
