"""Early stopping: when it ends a training, and what a resumed run knows of it."""

import numpy as np
import pytest

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.core.errors import RequestError
from rp2k_lab.device.workers import ALONE
from rp2k_lab.plugins import options_of
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import TrainingState
from rp2k_lab.train.callbacks.early_stopping import EarlyStopping

STEPS_PER_EPOCH = 4


def callback(tracker: MemoryTracker, **options) -> EarlyStopping:
    values = defaults_of("callback", "early_stopping")["early_stopping"] | options
    return EarlyStopping(options_of("callback")["early_stopping"].model_validate(values), tracker, ALONE)


def epochs_trained(values: list[float], **options) -> int:
    """Return the number of epochs that are trained with these values of val/top1."""
    tracker, state = MemoryTracker(), TrainingState(len(values), STEPS_PER_EPOCH, 8, np.zeros(1))
    stopping = callback(tracker, **options)
    for epoch, value in enumerate(values, start=1):
        state.step = epoch * STEPS_PER_EPOCH
        tracker.log_metrics({"val/top1": value}, state.step)
        stopping.epoch_end(state)
        if state.stop:
            return epoch
    return len(values)


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], {"patience": 1}, 5),
        ([0.3, 0.2, 0.2, 0.2, 0.2], {"patience": 2}, 3),
        ([0.3, 0.3, 0.3, 0.3, 0.3], {"patience": 3}, 4),  # equal is no improvement
        ([0.3, 0.2, 0.4, 0.2, 0.2, 0.2], {"patience": 2}, 5),
        ([0.3, 0.31, 0.32, 0.33, 0.34], {"patience": 2, "min_delta": 0.05}, 3),
        ([0.3, 0.2, 0.2, 0.2, 0.2, 0.2], {"patience": 1, "min_epochs": 4}, 4),
    ],
)
def test_epochs_trained(values, options, epochs):
    assert epochs_trained(values, **options) == epochs


def test_the_training_loss_is_minimized():
    tracker, state = MemoryTracker(), TrainingState(9, STEPS_PER_EPOCH, 8, np.zeros(1))
    stopping = callback(tracker, metric="train/loss", patience=1)
    for epoch, loss in enumerate((2.0, 1.0, 1.5), start=1):
        for step in range(STEPS_PER_EPOCH):
            tracker.log_metrics({"train/loss": loss}, (epoch - 1) * STEPS_PER_EPOCH + step + 1)
        state.step = epoch * STEPS_PER_EPOCH
        stopping.epoch_end(state)
        assert state.stop == (epoch == 3)


def test_a_resumed_run_that_had_ended_early_trains_no_step():
    tracker = MemoryTracker()
    for epoch, value in enumerate((0.5, 0.4, 0.4), start=1):
        tracker.log_metrics({"val/top1": value}, epoch * STEPS_PER_EPOCH)
    state = TrainingState(9, STEPS_PER_EPOCH, 8, np.zeros(1), step=3 * STEPS_PER_EPOCH)
    callback(tracker, patience=2).train_begin(state)
    assert state.stop


def test_a_metric_that_the_run_lacks_is_named():
    tracker, state = MemoryTracker(), TrainingState(2, STEPS_PER_EPOCH, 8, np.zeros(1), step=STEPS_PER_EPOCH)
    tracker.log_metrics({"val/top1": 0.5}, STEPS_PER_EPOCH)
    with pytest.raises(RequestError, match=r"metric=val/f1: the run has no such metric\nuse val/top1 or train/loss"):
        callback(tracker, metric="val/f1").epoch_end(state)
