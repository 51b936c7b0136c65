"""Save checkpoints and the best weights."""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from mindspore import nn

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback
from rp2k_lab.train.checkpoint import CheckpointFolder, ParameterCopy, TrainingPosition

log = logging.getLogger(__name__)


class SaveCheckpoints(Callback):
    """A callback that saves the whole state regularly and when stopped, and the weights at a new best.

    It copies the parameters; a thread writes the copies while the training continues.  The next checkpoint waits for
    them, so that there is one copy of each kind at most, and so does the end of the training.  An error of the thread,
    such as a full disk, is raised there.

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
        self._writer, self._writing = ThreadPoolExecutor(1, "checkpoints"), list[Future]()

    def train_begin(self, state):
        self._started = time.monotonic()
        self._due = self._started + self._seconds

    def step_end(self, state):
        if state.step % state.steps_per_epoch and (state.stop or time.monotonic() >= self._due):
            self._save(state)

    def epoch_end(self, state):
        if state.best and state.best[1] == state.step:
            with self._timed():
                self._finish_writing()
                self._write(self._checkpoints.save_best, self._network, state.step)
        due = state.epoch % self._epochs == 0 or state.step == state.steps or time.monotonic() >= self._due
        if due or state.stop:
            self._save(state)

    def interrupted(self, state):
        self._save(state, epoch_open=True)

    def close(self, state):
        self._writer.shutdown()
        for writing in self._writing:  # not empty after an exception only, which this error must not hide
            if error := writing.exception():
                log.warning("the last checkpoint was not saved: %s", error)
        if self._count:
            fraction = self._spent / (time.monotonic() - self._started)
            self._tracker.set_tags({"checkpoint_time_share": f"{fraction:.4f}"})
            message = "training waited %.1f s for %d checkpoints, %.2f %% of its time"
            log.info(message, self._spent, self._count, 100 * fraction)

    def _save(self, state, epoch_open=False):
        with self._timed():
            if not (state.best and state.best[1] == state.step):  # else its weights are being written, for this one
                self._finish_writing()
            self._tracker.flush()
            position = TrainingPosition(state.step, state.loss, epoch_open, state.best, self._tracker.logged())
            self._write(self._checkpoints.save, self._train_network, position)
            if epoch_open or state.stop or state.step == state.steps:
                self._finish_writing()
        self._due, self._count = time.monotonic() + self._seconds, self._count + 1

    def _write(self, save: Callable[..., None], net: nn.Cell, what: int | TrainingPosition) -> None:
        self._writing.append(self._writer.submit(save, ParameterCopy(net), what))

    def _finish_writing(self) -> None:
        """Wait for the thread; raise its first error."""
        writing, self._writing = self._writing, []
        for each in writing:
            each.result()

    @contextmanager
    def _timed(self):
        started = time.monotonic()
        yield
        self._spent += time.monotonic() - started
