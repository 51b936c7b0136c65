"""Synchronize loss and signals of all ranks after each step."""

import numpy as np

from rp2k_lab.core.signals import StopSignal
from rp2k_lab.device.workers import Workers
from rp2k_lab.train.callbacks.base import Callback


class SyncWorkers(Callback):
    """A callback that averages the loss over the ranks, and stops all of them when one received a signal."""

    def __init__(self, workers: Workers, signals: StopSignal):
        self._workers, self._signals = workers, signals

    def step_end(self, state):
        losses, signums = self._workers.gather(np.array([state.loss, self._signals.signum or 0])).T
        state.loss = float(losses.mean())
        state.stop = state.stop or bool(signums.any())
