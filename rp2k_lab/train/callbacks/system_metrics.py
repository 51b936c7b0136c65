"""Log the load of the machine."""

import time
from collections.abc import Callable

import psutil

from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.callbacks.base import Callback
from rp2k_lab.train.verify import SYSTEM

_SECONDS = 10.0


class SystemMetrics(Callback):
    """A callback that logs load and memory of the machine after a step, at most every ten seconds, and at the end.

    The names are MLflow's, whose page shows them in a tab.  MLflow's sampler is not used: it is a thread beside the
    training, and logs past the journal.

    Args:
        clock: seconds.
    """

    def __init__(self, tracker: MemoryTracker, clock: Callable[[], float] = time.monotonic):
        self._tracker, self._clock = tracker, clock

    def train_begin(self, state):
        self._next, self._process = self._clock(), psutil.Process()
        psutil.cpu_percent()  # the next call measures from here

    def step_end(self, state):
        if self._clock() < self._next:
            return
        self._next = self._clock() + _SECONDS
        self._sample(state)

    def close(self, state):
        self._sample(state)

    def _sample(self, state):
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": memory.used / 1e6,
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }
        self._tracker.log_metrics({f"{SYSTEM}{name}": value for name, value in values.items()}, state.step)
