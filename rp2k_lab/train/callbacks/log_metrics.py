"""Log metrics during training."""

import math

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback


class LogMetrics(Callback):
    """A callback that logs loss and learning rate of each step, and val's scores after each epoch."""

    def __init__(self, tracker: MemoryTracker):
        self._tracker = tracker

    def step_end(self, state):
        # A step that a dynamic loss scale skipped may have no loss.
        loss = {"train/loss": state.loss} if math.isfinite(state.loss) else {}
        self._tracker.log_metrics(loss | {"train/lr": state.rate}, state.step)

    def close(self, state):
        if state.skipped:
            self._tracker.set_tags({"skipped_steps": str(state.skipped)})

    def epoch_end(self, state):
        metrics = {f"val/{name}": score.value for name, score in state.scores.items()}
        self._tracker.log_metrics(metrics | {"epoch": state.epoch}, state.step)
