"""Stop training when the loss becomes NaN or infinite."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter

from rp2k_lab.core.errors import TrainingDiverged
from rp2k_lab.train.callbacks.base import Callback, TrainingState

log = logging.getLogger(__name__)


class NanGuard(Callback):
    """A guard that raises TrainingDiverged at the first NaN or infinite loss, before the step's weights are saved.

    A step that a dynamic loss scale skipped is a failure only if no smaller scale can help: the scale is 1 already, or
    the forward pass has left NaN or infinity in the running statistics, which no step repairs.

    Args:
        last_checkpoint: file of the last checkpoint, which may not exist.
        record: called with (state, reason); writes a record and returns a text on it.
        statistics: running statistics of the network's batch norms.
    """

    def __init__(
        self,
        last_checkpoint: Path,
        record: Callable[[TrainingState, str], str],
        statistics: Sequence[Parameter] = (),
    ):
        self._last_checkpoint, self._record, self._statistics = last_checkpoint, record, statistics

    def step_end(self, state):
        if state.overflow:
            log.info("step %d: skipped, its gradients overflow; the loss scale is now %g", state.step, state.loss_scale)
            if state.loss_scale <= 1:
                raise self._diverged(state, "the gradients overflow at a loss scale of 1")
            if not math.isfinite(state.loss):
                self._check_statistics(state)
        elif not math.isfinite(state.loss):
            raise self._diverged(state, "the loss is NaN or infinite")

    def epoch_end(self, state):
        if state.skipped:  # with data sinking, the loss of a skipped step may be unknown
            self._check_statistics(state)

    def _check_statistics(self, state: TrainingState) -> None:
        if not all(np.isfinite(parameter.asnumpy()).all() for parameter in self._statistics):
            raise self._diverged(state, "running statistics of batch norms are NaN or infinite")

    def _diverged(self, state: TrainingState, reason: str) -> TrainingDiverged:
        exists = self._last_checkpoint.exists()
        saved = f"the last good checkpoint is {self._last_checkpoint}" if exists else "no checkpoint yet"
        precision = ", or device.precision=float32" if state.skipped else ""
        return TrainingDiverged(
            f"loss={state.loss} at step {state.step} (epoch {state.epoch}), learning rate {state.rate:.3g}, "
            f"{self._record(state, reason)}; {saved}\n"
            f"try a smaller optimizer.lr or more schedule.warmup_epochs{precision}"
        )
