"""Measure training throughput."""

import time

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback


class Throughput(Callback):
    """A callback that logs `train/images_per_second` of each epoch, from the end of its first step (compilation)."""

    def __init__(self, tracker: MemoryTracker):
        self._tracker = tracker

    def train_begin(self, state):
        self._first = None

    def step_end(self, state):
        if self._first is None:
            self._first = (state.step, time.monotonic())
        self._last = (state.step, time.monotonic())

    def epoch_end(self, state):
        if self._first is None:  # the resumed epoch had only its evaluation left
            return
        steps, seconds = (last - first for last, first in zip(self._last, self._first, strict=True))
        if steps:
            speed = steps * state.batch_size / seconds
            self._tracker.log_metrics({"train/images_per_second": speed}, state.step)
        self._first = None
