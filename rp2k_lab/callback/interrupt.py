"""Ends a training in order when a signal asks for it."""

from rp2k_lab.callback.base import Callback
from rp2k_lab.interrupt import SignalWatch


class StopOnSignal(Callback):
    """Stops after the step in which the signal came."""

    def __init__(self, watch: SignalWatch):
        self._watch = watch

    def step_end(self, state):
        state.stop = state.stop or self._watch.signum is not None
