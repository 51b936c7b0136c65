"""Stop or warn when the loss stays at chance for several epochs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from statistics import fmean

import numpy as np

from rp2k_lab.core.errors import TrainingDiverged
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback, TrainingState

log = logging.getLogger(__name__)

# The loss of a network that guesses by class frequency varies a little around the lowest loss of a constant prediction.
_TOLERANCE = 0.99


class ChanceGuard(Callback):
    """A guard that acts when the mean loss of consecutive epochs is not below the loss of guessing.

    It has no state: it reads the losses of the tracker, which a resumed run has from its first step on.

    Args:
        tracker: has `train/loss`.
        chance: lowest loss of a constant prediction, from `chance` of a `conf/loss` choice.
        epochs: number of consecutive epochs; None: never act.
        action: stop (raise TrainingDiverged) or warn (once a sequence of epochs).
        record: called with (state, reason); writes a record and returns a text on it.
    """

    def __init__(
        self,
        tracker: MemoryTracker,
        chance: float,
        epochs: int | None,
        action: str,
        record: Callable[[TrainingState, str], str],
    ):
        self._tracker, self._chance, self._limit = tracker, chance, epochs
        self._action, self._record = action, record

    def epoch_end(self, state):
        means = epoch_means(self._tracker.history["train/loss"], state.steps_per_epoch)
        stuck = list(takewhile(lambda mean: mean >= _TOLERANCE * self._chance, means))
        if len(stuck) != self._limit:
            return
        rate = state.rate
        message = (
            f"loss={stuck[0]:.4g} in epoch {state.epoch}, at chance ({self._chance:.4g}) for {len(stuck)} epochs, "
            f"learning rate {rate:.3g}, {self._record(state, 'the loss stays at chance')}"
        )
        if self._action == "stop":
            raise TrainingDiverged(f"{message}\ntry another optimizer.lr, or task.chance_guard.action=warn to train on")
        log.warning("%s", message)


def epoch_means(losses: Sequence[tuple[int, float]], steps_per_epoch: int) -> Iterator[float]:
    """Yield the mean loss of each epoch, the last epoch first, from ordered (step counted from 1, loss)."""
    for _, entries in groupby(reversed(losses), lambda entry: (entry[0] - 1) // steps_per_epoch):
        yield fmean(loss for _, loss in entries)


def mean_target(labels: np.ndarray, num_classes: int, sampler: str) -> np.ndarray:
    """Return the mean target of training images without label smoothing, float64 (num_classes,), sum 1.

    Mixup and CutMix have the same mean.

    Args:
        labels: int (rows,), labels of the training images.
        sampler: see `dataset.loader.EpochBatches`.
    """
    counts = np.bincount(labels, minlength=num_classes)
    drawn = (counts > 0) if sampler == "class_balanced" else counts
    return drawn / drawn.sum()
