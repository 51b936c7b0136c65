"""Report val top-1 to the study of a trial."""

from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.callbacks.base import Callback


class Prune(Callback):
    """A callback that reports val top-1 after each epoch except the last, and stops if the study prunes the trial."""

    def __init__(self, trial: Trial):
        self._trial = trial

    def epoch_end(self, state):
        if state.evaluated_at == state.step < state.steps:
            self._trial.report_metric(state.scores["top1"].value, state.epoch, state.epochs)
            state.stop = state.stop or self._trial.pruned
