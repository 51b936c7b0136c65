"""callback=best_epoch: log the epoch of the best val top-1 so far."""

from typing import Literal

from rp2k_lab import register
from rp2k_lab.train.optional_callbacks import CallbackOptions


@register("callback")
class BestEpoch(CallbackOptions):
    """Options of the callback: none but its name."""

    name: Literal["best_epoch"]

    def build(self, context):
        """Return the callback."""
        from rp2k_lab.train.callbacks.base import Callback

        class LogBestEpoch(Callback):
            """Log `val/best_epoch` after each epoch."""

            def epoch_end(self, state):
                epoch = state.best[1] // state.steps_per_epoch
                context.tracker.log_metrics({"val/best_epoch": epoch}, state.step)

        return LogBestEpoch()
