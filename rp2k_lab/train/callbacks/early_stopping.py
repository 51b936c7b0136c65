"""End a training whose metric on val no longer improves."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from rp2k_lab.core.errors import RequestError
from rp2k_lab.device.workers import Workers
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback, TrainingState
from rp2k_lab.train.callbacks.chance_guard import epoch_means

if TYPE_CHECKING:
    from rp2k_lab.train.optional_callbacks.early_stopping import EarlyStopping as Options

log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """A callback that ends the training after `patience` epochs without improvement.

    It has no state: it reads the tracker, whose history a resumed run has from its first step on.
    """

    def __init__(self, options: "Options", tracker: MemoryTracker, workers: Workers):
        self._options, self._tracker, self._workers = options, tracker, workers

    def train_begin(self, state: TrainingState) -> None:
        """Stop a resumed training that had already been ended, but not yet evaluated."""
        if state.step and not state.step % state.steps_per_epoch and not state.epoch_open:
            self._decide(state)

    def epoch_end(self, state: TrainingState) -> None:
        """Decide after each epoch.

        Raises:
            RequestError: the run has no such metric.
        """
        self._decide(state)

    def _decide(self, state: TrainingState) -> None:
        waited = self._waited(state.steps_per_epoch) if self._workers.is_rank_zero else 0
        ends = waited >= self._options.patience and state.epoch >= self._options.min_epochs
        if not self._workers.gather(np.array([float(ends)])).any() or state.step == state.steps:
            return
        state.stop = True
        if self._workers.is_rank_zero:
            log.info("early stopping after epoch %d: %s has not improved for %d epochs",
                     state.epoch, self._options.metric, waited)  # fmt: skip
            self._tracker.set_tags({"stopped_early": f"epoch {state.epoch} of {state.epochs}"})

    def _waited(self, steps_per_epoch: int) -> int:
        """Return the number of epochs since the last improvement."""
        metric, history = self._options.metric, self._tracker.history
        if metric not in history:
            known = ", ".join(sorted(name for name in history if name.startswith("val/"))) or "val/top1"
            raise RequestError(
                f"callback.early_stopping.metric={metric}: the run has no such metric\nuse {known} or train/loss"
            )
        if metric == "train/loss":
            values = [-mean for mean in epoch_means(history[metric], steps_per_epoch)][::-1]
        else:
            known = metrics().get(metric.removeprefix("val/"))
            sign = 1 if known is None or known.higher_is_better else -1
            values = [sign * value for _, value in history[metric]]
        best, best_epoch = -np.inf, 0
        for epoch, value in enumerate(values):
            if value > best + (self._options.min_delta if np.isfinite(best) else 0):
                best, best_epoch = value, epoch
        return len(values) - 1 - best_epoch
