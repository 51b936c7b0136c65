"""The progress bar: steps of the run, loss, images per second and remaining time."""

import time

from tqdm import tqdm

from rp2k_lab.train.callbacks.base import Callback


class ProgressBar(Callback):
    """A callback with one bar for the whole run, if there is a terminal, and one line an epoch."""

    def train_begin(self, state):
        self._bar = tqdm(total=state.steps, initial=state.step, unit="step", dynamic_ncols=True, disable=None)
        self._epoch_started = time.monotonic()

    def step_end(self, state):
        if self._bar.disable:
            return
        self._bar.set_description(f"epoch {state.epoch}/{state.epochs}", refresh=False)
        rate = self._bar.format_dict["rate"]
        speed = f", {rate * state.batch_size:.0f} images/s" if rate else ""
        self._bar.set_postfix_str(f"loss {state.loss:.3f}{speed}", refresh=False)
        self._bar.update(state.step - self._bar.n)

    def epoch_end(self, state):
        seconds, self._epoch_started = time.monotonic() - self._epoch_started, time.monotonic()
        line = f"epoch {state.epoch}/{state.epochs}  loss {state.loss:.3f}"
        if state.evaluated_at == state.step:
            top1 = state.scores["top1"]
            best = "  best so far" if state.best and state.best[1] == state.step else ""
            line += f"  val top-1 {100 * top1.value:.1f} % of {top1.count}{best}"
        self._bar.write(f"{line}  ({seconds:.0f} s)")

    def close(self, state):
        if hasattr(self, "_bar"):
            self._bar.close()
