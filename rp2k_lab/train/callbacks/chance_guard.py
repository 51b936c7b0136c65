"""Stops a training, or warns, that has learned nothing in a number of epochs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from statistics import fmean

import numpy as np

from rp2k_lab.core.errors import TrainingDiverged
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback, TrainingState

log = logging.getLogger(__name__)

# A network that guesses by the classes' shares alone is a little above or below their entropy.
_TOLERANCE = 0.99


class ChanceGuard(Callback):
    """Acts when the mean loss of so many epochs on end is no lower than guessing would have it.

    It keeps nothing: what it counts is the run's record, which a resumed run has from its first step on.

    Args:
        tracker: has `train/loss`.
        chance: the loss of the best guess, see `chance_loss`.
        epochs: how many on end; None: never.
        action: stop, which raises TrainingDiverged, or warn, once a stretch.
        record: writes down the state for a reason, and says where.
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
        rate = state.learning_rate[state.step - 1]
        words = (
            f"loss={stuck[0]:.4g} in epoch {state.epoch}, at chance ({self._chance:.4g}) for {len(stuck)} epochs, "
            f"learning rate {rate:.3g}, {self._record(state, 'the loss stays at chance')}"
        )
        if self._action == "stop":
            raise TrainingDiverged(f"{words}\ntry another optimizer.lr; task.chance_guard.action=warn goes on")
        log.warning("%s", words)


def epoch_means(losses: Sequence[tuple[int, float]], steps_per_epoch: int) -> Iterator[float]:
    """The mean loss of each epoch, the last one first, of (step from 1 on, loss) in order."""
    for _, of_epoch in groupby(reversed(losses), lambda entry: (entry[0] - 1) // steps_per_epoch):
        yield fmean(loss for _, loss in of_epoch)


def chance_loss(labels: np.ndarray, num_classes: int, sampler: str, smoothing: float) -> float:
    """The cross-entropy of always predicting the mean target, which no constant prediction is below: its entropy.

    It holds with mixup and CutMix, whose mean target is the same, and with logit adjustment, which moves the constant
    logits and not what they can reach.

    Args:
        labels: int (rows,), of the training photos.
        sampler: as of `dataset.batches.EpochBatches`.
        smoothing: of the labels, 0 to 1.
    """
    counts = np.bincount(labels, minlength=num_classes)
    drawn = (counts > 0) if sampler == "class_balanced" else counts
    target = (1 - smoothing) * drawn / drawn.sum() + smoothing / num_classes
    target = target[target > 0]
    return float(-(target * np.log(target)).sum())
