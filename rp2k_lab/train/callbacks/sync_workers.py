"""What all workers have to see alike after a step."""

import numpy as np

from rp2k_lab.core.signals import StopSignal
from rp2k_lab.device.workers import Workers
from rp2k_lab.train.callbacks.base import Callback


class SyncWorkers(Callback):
    """Makes the loss the mean over the workers, and stops all after the step in which a signal came to one."""

    def __init__(self, workers: Workers, watch: StopSignal):
        self._workers, self._watch = workers, watch

    def step_end(self, state):
        losses, signums = self._workers.gather(np.array([state.loss, self._watch.signum or 0])).T
        state.loss = float(losses.mean())
        state.stop = state.stop or bool(signums.any())
