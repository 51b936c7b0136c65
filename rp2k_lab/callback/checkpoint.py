"""Checkpoints: what to go on from, and the best weights."""

import math
import time

from mindspore import nn

from rp2k_lab.callback.base import Callback
from rp2k_lab.checkpoint import CheckpointFolder, Point
from rp2k_lab.tracker import MemoryTracker


class SaveCheckpoints(Callback):
    """Saves the whole state when it is time and when stopped, and the weights alone at a new best.

    Args:
        checkpoints: where.
        train_network: the network with loss and optimizer.
        network: what is evaluated.
        tracker: has the run's metrics; what it had at a checkpoint outlives the process too.
        every_epochs: how often at an epoch's end; at the last one always.
        every_minutes: how often besides, between two steps; None: not at all.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder,
        train_network: nn.Cell,
        network: nn.Cell,
        tracker: MemoryTracker,
        every_epochs: int = 1,
        every_minutes: float | None = None,
    ):
        self._checkpoints, self._train_network, self._network = checkpoints, train_network, network
        self._tracker, self._epochs, self._seconds = tracker, every_epochs, 60 * (every_minutes or math.inf)

    def train_begin(self, state):
        self._due = time.monotonic() + self._seconds

    def step_end(self, state):
        if state.step % state.steps_per_epoch and (state.stop or time.monotonic() >= self._due):
            self._save(state)

    def epoch_end(self, state):
        if state.best and state.best[1] == state.step:
            self._checkpoints.save_best(self._network, state.step)
        due = state.epoch % self._epochs == 0 or state.step == state.steps or time.monotonic() >= self._due
        if due or state.stop:
            self._save(state)

    def interrupted(self, state):
        self._save(state, epoch_open=True)

    def _save(self, state, epoch_open=False):
        self._tracker.flush()
        point = Point(state.step, state.loss, epoch_open, state.best, self._tracker.logged())
        self._checkpoints.save(self._train_network, point)
        self._due = time.monotonic() + self._seconds
