"""Save checkpoints and the best weights."""

import logging
import math
import time
from contextlib import contextmanager

from mindspore import nn

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition

log = logging.getLogger(__name__)


class SaveCheckpoints(Callback):
    """A callback that saves the whole state regularly and when stopped, and the weights at a new best.

    Args:
        checkpoints: folder of the checkpoints.
        train_network: the network with loss and optimizer.
        network: the evaluated network.
        tracker: the run's metrics, flushed before each checkpoint.
        every_epochs: interval in epochs; the last epoch is always saved.
        every_minutes: additional interval between steps; None: none.
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
        self._spent, self._count = 0.0, 0

    def train_begin(self, state):
        self._started = time.monotonic()
        self._due = self._started + self._seconds

    def step_end(self, state):
        if state.step % state.steps_per_epoch and (state.stop or time.monotonic() >= self._due):
            self._save(state)

    def epoch_end(self, state):
        if state.best and state.best[1] == state.step:
            with self._timed():
                self._checkpoints.save_best(self._network, state.step)
        due = state.epoch % self._epochs == 0 or state.step == state.steps or time.monotonic() >= self._due
        if due or state.stop:
            self._save(state)

    def interrupted(self, state):
        self._save(state, epoch_open=True)

    def close(self, state):
        if self._count:
            fraction = self._spent / (time.monotonic() - self._started)
            self._tracker.set_tags({"checkpoint_time_share": f"{fraction:.4f}"})
            log.info("%d checkpoints took %.1f s, %.2f %% of the training", self._count, self._spent, 100 * fraction)

    def _save(self, state, epoch_open=False):
        with self._timed():
            self._tracker.flush()
            position = TrainingPosition(state.step, state.loss, epoch_open, state.best, self._tracker.logged())
            self._checkpoints.save(self._train_network, position)
        self._due, self._count = time.monotonic() + self._seconds, self._count + 1

    @contextmanager
    def _timed(self):
        started = time.monotonic()
        yield
        self._spent += time.monotonic() - started
