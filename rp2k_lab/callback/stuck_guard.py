"""Stops a training, or warns, that has learnt nothing in a number of epochs."""

import logging
from collections.abc import Callable

import numpy as np

from rp2k_lab.callback.base import Callback, TrainingState
from rp2k_lab.errors import TrainingDiverged

log = logging.getLogger(__name__)

# A network that guesses by the classes' shares alone is a little above or below their entropy.
_TOLERANCE = 0.99


class StuckGuard(Callback):
    """Acts when the mean loss of so many epochs on end is no lower than guessing would have it.

    Args:
        chance: the loss of the best guess, see `chance_loss`.
        epochs: how many on end; None: never.
        action: stop, which raises TrainingDiverged, or warn, once.
        record: writes down the state for a reason, and says where.
    """

    def __init__(self, chance: float, epochs: int | None, action: str, record: Callable[[TrainingState, str], str]):
        self._chance, self._limit, self._action, self._record = chance, epochs, action, record
        self._losses, self._stuck, self._warned = [], 0, False

    def step_end(self, state):
        self._losses.append(state.loss)

    def epoch_end(self, state):
        mean, self._losses = float(np.mean(self._losses)), []
        self._stuck = self._stuck + 1 if mean >= _TOLERANCE * self._chance else 0
        if self._stuck != self._limit or self._warned:
            return
        rate = state.learning_rate[state.step - 1]
        words = (
            f"loss={mean:.4g} in epoch {state.epoch}, at chance ({self._chance:.4g}) for {self._stuck} epochs, "
            f"learning rate {rate:.3g}, {self._record(state, 'the loss stays at chance')}"
        )
        if self._action == "stop":
            raise TrainingDiverged(f"{words}\ntry another optimizer.lr; loss.stuck=warn goes on")
        self._warned = True
        log.warning("%s", words)


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
