"""The progress of a training: its steps, loss, images per second and remaining time; and a line an epoch."""

import time
from contextlib import ExitStack

from rp2k_lab.core.progress import activity
from rp2k_lab.train.callbacks.base import Callback

# Of a training step's time, what the prediction of a batch takes, until an evaluation was measured: the forward pass
# is a third of the arithmetic.
_FORWARD_FRACTION = 1 / 3


class ProgressBar(Callback):
    """A callback that shows the whole run, and prints one line an epoch.  It comes last: it times the others' hooks.

    Args:
        val_images: number of images that each epoch evaluates.
        closing_images: number of images that the end of the run evaluates.
    """

    def __init__(self, val_images: int = 0, closing_images: int = 0):
        self._val_images, self._closing_images = val_images, closing_images
        self._steps, self._step_seconds, self._evaluation_seconds = 0, 0.0, None
        self._stack = ExitStack()

    def train_begin(self, state):
        self._work = self._stack.enter_context(activity("compiling the training step", state.steps))
        self._epoch_started = time.monotonic()
        self._since = None  # the first step compiles
        self._epochs_done = state.step // state.steps_per_epoch - state.epoch_open

    def step_end(self, state):
        now, work = time.monotonic(), self._work
        if self._since is not None:
            self._steps += state.step - work.done
            self._step_seconds += now - self._since
        speed = f"  {state.batch_size / self._seconds_a_step():,.0f} images/s" if self._steps else ""
        work.what, work.detail = f"epoch {state.epoch}/{state.epochs}  step", f"loss {state.loss:.3f}{speed}"
        work.left, work.done, self._since = lambda: self.seconds_left(state), state.step, now

    def epoch_end(self, state):
        now, self._epochs_done = time.monotonic(), self._epochs_done + 1
        if self._since is not None:
            self._evaluation_seconds, self._since = now - self._since, now
        seconds, self._epoch_started = now - self._epoch_started, now
        line = f"epoch {state.epoch}/{state.epochs}  loss {state.loss:.3f}"
        if state.evaluated_at == state.step:
            top1 = state.scores["top1"]
            best = "  best so far" if state.best and state.best[1] == state.step else ""
            line += f"  val top-1 {100 * top1.value:.1f} % of {top1.count}{best}"
        print(f"{line}  ({seconds:.0f} s)", flush=True)

    def close(self, state):
        self._stack.close()

    def seconds_left(self, state) -> float:
        """Return the remaining time of the run with its evaluations [s]."""
        image = self._seconds_a_step() / max(1, state.batch_size)
        evaluation = self._evaluation_seconds
        if evaluation is None:
            evaluation = self._val_images * image * _FORWARD_FRACTION
        closing = evaluation * self._closing_images / max(1, self._val_images)
        epochs = state.epochs - self._epochs_done
        return (state.steps - state.step) * self._seconds_a_step() + epochs * evaluation + closing

    def _seconds_a_step(self) -> float:
        return self._step_seconds / self._steps if self._steps else 0.0
