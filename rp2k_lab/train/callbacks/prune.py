"""Tells a study how its trial is doing."""

from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train.callbacks.base import Callback


class Prune(Callback):
    """Reports val top-1 after each epoch but the last, and stops where the study asks for it."""

    def __init__(self, trial: Trial):
        self._trial = trial

    def epoch_end(self, state):
        if state.evaluated_at == state.step < state.steps:
            self._trial.report(state.scores["top1"].value, state.epoch, state.epochs)
            state.stop = state.stop or self._trial.pruned
