"""The interface to MindSpore: one `mindspore.train.Callback` that keeps the training state and calls our callbacks.

MindSpore's counters restart when a run resumes, and with data sinking its epoch is a sink.  `Dispatch` hides that:
callbacks see steps and epochs of the whole run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Tensor
from mindspore.train import Callback as MindsporeCallback
from mindspore.train import RunContext

from rp2k_lab.core.errors import Interrupted
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.train.checkpoint import TrainingPosition


@dataclass
class TrainingState:
    """The state of a training.

    Attributes:
        epochs, steps_per_epoch, batch_size: the plan; batch_size over all ranks.
        learning_rate: float32 (steps,), for every step of the run.
        step: steps done since the start of the run.
        loss: loss of the last step (with data sinking, of the sink's last step).
        overflow, loss_scale: with a dynamic loss scale, whether that step was skipped, and the scale of the next.
        skipped: steps so far without an update, because their gradients overflowed.
        scores: scores of the last evaluation on val; `evaluated_at` is its step.
        best: best val top-1 so far and its step, or None.
        epoch_open: the evaluation after the epoch's last step was interrupted, and comes first.
        stop: set by a callback to end the training after the step.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: np.ndarray
    step: int = 0
    loss: float = float("nan")
    overflow: bool = False
    loss_scale: float = 1.0
    skipped: int = 0
    scores: dict[str, Score] = field(default_factory=dict)
    evaluated_at: int = -1
    best: tuple[float, int] | None = None
    epoch_open: bool = False
    stop: bool = False

    def resume(self, position: TrainingPosition) -> None:
        """Continue at the position of a checkpoint."""
        self.step, self.loss = position.step, position.loss
        self.best, self.epoch_open = position.best, position.epoch_open

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def rate(self) -> float:
        """Learning rate of the last step; a skipped step leaves its rate to the next."""
        return float(self.learning_rate[max(0, self.step - 1 - self.skipped)])

    @property
    def epoch(self) -> int:
        """Epoch of the last step, counted from 1."""
        return max(0, self.step - 1) // self.steps_per_epoch + 1


class Callback:
    """Hooks around the steps of a training; a subclass implements those that it needs."""

    def train_begin(self, state: TrainingState) -> None:
        """Run before the first step."""

    def step_end(self, state: TrainingState) -> None:
        """Run after a step (with data sinking, after a sink)."""

    def epoch_end(self, state: TrainingState) -> None:
        """Run after an epoch's last step, when every callback's `step_end` has run."""

    def interrupted(self, state: TrainingState) -> None:
        """Run when a signal interrupts the evaluation after an epoch's last step; `close` follows."""

    def close(self, state: TrainingState) -> None:
        """Run at the end, also after an exception."""


class Dispatch(MindsporeCallback):
    """The MindSpore callback that keeps `state` and calls each hook of `callbacks` in order.

    Attributes:
        hook_seconds: CPU time of this thread in the hooks, by callback class (seconds).
    """

    def __init__(self, state: TrainingState, callbacks: Sequence[Callback]):
        super().__init__()
        self.state, self.callbacks = state, callbacks
        self._first_step = state.step
        self.hook_seconds = {type(callback).__name__: 0.0 for callback in callbacks}

    def run(self, train: Callable[[int], None]) -> None:
        """Run the remaining steps.

        Args:
            train: `Model.train` with this callback, called with the number of epochs; the first may be partly done.
        """
        state = self.state
        try:
            self._call("train_begin")
            if state.epoch_open:
                self._call("epoch_end")
                state.epoch_open = False
            epochs = -(-(state.steps - state.step) // state.steps_per_epoch)
            if epochs and not state.stop:
                train(epochs)
        except Interrupted:
            self._call("interrupted")
            raise
        finally:
            self._call("close")

    def on_train_step_end(self, run_context: RunContext) -> None:
        params, state = run_context.original_args(), self.state
        state.step = self._first_step + params.cur_step_num
        loss, *scaling = params.net_outputs if isinstance(params.net_outputs, tuple) else (params.net_outputs,)
        state.loss = _scalar(loss)
        if scaling:  # of `DynamicScaleStep`
            overflow, state.loss_scale, skipped = map(_scalar, scaling)
            state.overflow, state.skipped = bool(overflow), int(skipped)
        self._call("step_end")
        if state.step % state.steps_per_epoch == 0:
            self._call("epoch_end")
        if state.stop:
            run_context.request_stop()

    def _call(self, hook: str) -> None:
        for callback in self.callbacks:
            started = time.thread_time()
            getattr(callback, hook)(self.state)
            self.hook_seconds[type(callback).__name__] += time.thread_time() - started


def _scalar(output: Tensor) -> float:
    return float(output.asnumpy().mean())
