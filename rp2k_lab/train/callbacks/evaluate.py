"""Evaluate on val after each epoch."""

from collections.abc import Callable

from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.train.callbacks.base import Callback


class Evaluate(Callback):
    """A callback that puts val's scores and the best top-1 so far (the first of equals) into the state."""

    def __init__(self, evaluate: Callable[[], dict[str, Score]]):
        self._evaluate = evaluate

    def epoch_end(self, state):
        state.scores, state.evaluated_at = self._evaluate(), state.step
        top1 = state.scores["top1"].value
        if state.best is None or top1 > state.best[0]:
            state.best = (top1, state.step)
