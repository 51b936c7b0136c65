"""Measure the cost of tracking: a tracked run against a bare MindSpore loop over the same batches and network.

    python -m benchmarks.overhead [--rounds 6] [--steps 125] [--hung-server] [overrides, e.g. model=seresnext50 size=64]

Tracked: `Model.train` with every callback of a run, checkpoints and a real MLflow store.  Bare: a tutorial's loop with
the same compiled step and a separate pipeline over the same images.  They alternate every five steps, so that drift of
the machine affects both.  A round is an epoch; at its end the tracked run saves checkpoints.  There is no evaluation on
val, since a bare loop has none.  Output: images/s of tracked over bare, CPU time in the hooks, and wall time of the
calls that log metrics.  With --hung-server the store accepts connections and never answers.
"""

import argparse
import copy
import logging
import socket
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import ratio_line
from rp2k_lab import PROJECT
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.task.record import open_tracker
from rp2k_lab.task.training import Control, build_callbacks
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train import callbacks
from rp2k_lab.train.build import Training, build_batches, build_images, build_training
from rp2k_lab.train.checkpoint import CheckpointFolder

TURN_STEPS = 5


class BareTurns(callbacks.Callback):
    """A callback that runs five steps of the bare loop after every five tracked steps and times them."""

    def __init__(self, training: Training):
        self._step = training.model.train_network
        batches = copy.copy(training.batches)
        self._batches = mindspore_dataset(batches).create_tuple_iterator(num_epochs=-1)
        self._iterator = iter(())
        self.seconds = self.steps = 0

    def step_end(self, state):
        if state.step % TURN_STEPS:
            return
        started = time.perf_counter()
        for _ in range(TURN_STEPS):
            images, labels = self._next()
            self._step(images, labels).asnumpy()
        self.seconds += time.perf_counter() - started
        self.steps += TURN_STEPS

    def _next(self):
        batch = next(self._iterator, None)
        if batch is None:
            self._iterator = iter(self._batches)
            batch = next(self._iterator)
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=125, help="steps a round; 125 is an epoch of the default run")
    parser.add_argument("--hung-server", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as hung:
        uri = f"http://127.0.0.1:{hung.getsockname()[1]}" if options.hung_server else f"sqlite:///{folder}/mlflow.db"
        # The schedule must cover the bare steps too.
        epochs = f"epochs={100 * options.rounds}"
        config = compose([epochs, f"tracking.uri={uri}", *options.overrides])
        target.set_up(config.device)
        index = build_index(config.dataset)
        training = build_training(
            config, build_batches(config, index, build_images(config, index), index.split("train"))
        )
        training.batches.steps_per_epoch = options.steps
        bare = BareTurns(training)
        with StopSignal() as signals, open_tracker(config, None, Path(folder)) as tracker:
            calls = time_calls(tracker)
            measure(config, training, bare, tracker, signals, Path(folder))  # compiles
            rounds = [measure(config, training, bare, tracker, signals, Path(folder)) for _ in range(options.rounds)]
    tracked, untracked, hooks = zip(*rounds, strict=True)
    height, width = config.size
    print(f"{config.model.name}, {height}×{width}, batch {config.batch_size}, {options.steps} steps of each a round")
    print(f"  tracked {np.median(tracked):6.1f} images/s\n  bare    {np.median(untracked):6.1f} images/s")
    print("  " + ratio_line("tracked / bare:", np.divide(tracked, untracked)))
    steps = options.steps * options.rounds
    milliseconds = {name: 1000 * sum(h[name] for h in hooks) / steps for name in hooks[0]}
    print(f"  CPU time in the hooks: {sum(milliseconds.values()):.2f} ms a step, of which")
    for name, value in sorted(milliseconds.items(), key=lambda item: -item[1]):
        print(f"    {name:16} {value:8.3f} ms")
    print(
        f"  wall time of {len(calls)} calls that log metrics: {1000 * np.mean(calls):.3f} ms each, the longest "
        f"{1000 * np.max(calls):.1f} ms"
    )


def time_calls(tracker: MemoryTracker) -> list[float]:
    """Return a list that collects the time of each later call of `log_metrics` (seconds)."""
    calls, log_metrics = [], tracker.log_metrics

    def timed(metrics, step):
        started = time.perf_counter()
        log_metrics(metrics, step)
        calls.append(time.perf_counter() - started)

    tracker.log_metrics = timed
    return calls


def compose(overrides: list[str]) -> Config:
    """Return run.py's configuration for these overrides."""
    import hydra
    from omegaconf import OmegaConf

    register_resolvers()
    with hydra.initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return parse(OmegaConf.to_container(hydra.compose("config", overrides), resolve=True))


def measure(
    config: Config, training: Training, bare: BareTurns, tracker: MemoryTracker, signals: StopSignal, folder: Path
) -> tuple[float, float, dict[str, float]]:
    """Run one epoch of both; return (tracked images/s, bare images/s, CPU time by callback (seconds))."""
    batches = training.batches
    scores = {"top1": Score(0.5, 100, 0.4, 0.6)}
    checkpoints = CheckpointFolder(folder, config.task.checkpoints_kept)
    observers = [
        *build_callbacks(config, training, lambda: scores, checkpoints, Control(tracker, signals, Trial())),
        bare,
    ]
    state = callbacks.TrainingState(1, batches.steps_per_epoch, batches.batch_size, training.learning_rate)
    dispatch = callbacks.Dispatch(state, observers)
    bare.seconds = bare.steps = 0
    started = time.perf_counter()
    data = mindspore_dataset(batches)
    dispatch.run(lambda epochs: training.model.train(epochs, data, [dispatch], dataset_sink_mode=False))
    seconds = time.perf_counter() - started - bare.seconds
    hooks = {name: spent for name, spent in dispatch.hook_seconds.items() if name != "BareTurns"}
    return state.step * state.batch_size / seconds, bare.steps * state.batch_size / bare.seconds, hooks


if __name__ == "__main__":
    main()
