"""Log metrics during training."""

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback


class LogMetrics(Callback):
    """A callback that logs loss and learning rate of each step, and val's scores after each epoch."""

    def __init__(self, tracker: MemoryTracker):
        self._tracker = tracker

    def step_end(self, state):
        rate = float(state.learning_rate[state.step - 1])
        self._tracker.log_metrics({"train/loss": state.loss, "train/lr": rate}, state.step)

    def epoch_end(self, state):
        metrics = {f"val/{name}": score.value for name, score in state.scores.items()}
        self._tracker.log_metrics(metrics | {"epoch": state.epoch}, state.step)
