"""What tracking costs: a fully tracked run against a bare MindSpore loop over the same batches and network.

    python -m benchmarks.overhead [--rounds 6] [--steps 125] [overrides, e.g. model=seresnext50 size=64]

Both train the same compiled step from the same pipeline of the shelf set, in turn, in one process.  Tracked:
`Model.train` with every callback and a real MLflow store, checkpoints included; evaluation on val is left out of both,
since a bare loop has none.  Reported: images/s of tracked over bare, and the CPU time our hooks take per step.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import interleave, ratio_line
from rp2k_lab import PROJECT, callback, device
from rp2k_lab.build import Training, build_training
from rp2k_lab.cli import register_resolvers
from rp2k_lab.config import Config, parse
from rp2k_lab.dataset.feed import mindspore_dataset
from rp2k_lab.dataset.index import build_index
from rp2k_lab.interrupt import SignalWatch
from rp2k_lab.metrics import Score
from rp2k_lab.task.train import build_callbacks, open_tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--steps", type=int, default=125, help="steps a round of each; 125 is an epoch of the default run"
    )
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        # The schedule must last for every step of every round.
        schedule = ["epochs=1000", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        config = compose([*schedule, *options.overrides])
        device.set_up(config.device)
        training = build_training(config, build_index(config.dataset))
        training.batches.steps_per_epoch = options.steps
        with SignalWatch() as signals, open_tracker(config) as tracker:
            hooks: dict[str, float] = {}
            parts = {
                "tracked": lambda: tracked(training, tracker, signals, Path(folder), hooks),
                "bare": lambda: bare(training),
            }
            bare(training)  # compiles
            tracked(training, tracker, signals, Path(folder), {})
            speed = interleave(parts, options.rounds)
    height, width = config.size
    print(f"{config.model.name}, {height}×{width}, batch {config.batch_size}, {options.steps} steps a round")
    for name, values in speed.items():
        print(f"  {name:8} {np.median(values):6.1f} images/s")
    print("  " + ratio_line("tracked / bare:", speed["tracked"] / speed["bare"]))
    steps = options.steps * options.rounds
    print(f"  CPU time in our hooks: {1000 * sum(hooks.values()) / steps:.2f} ms a step, of which")
    for name, seconds in sorted(hooks.items(), key=lambda item: -item[1]):
        print(f"    {name:16} {1000 * seconds / steps:8.3f} ms")


def compose(overrides: list[str]) -> Config:
    """The configuration that run.py would make of the overrides."""
    import hydra
    from omegaconf import OmegaConf

    register_resolvers()
    with hydra.initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return parse(OmegaConf.to_container(hydra.compose("config", overrides), resolve=True))


def tracked(training: Training, tracker, signals: SignalWatch, folder: Path, hooks: dict[str, float]) -> float:
    """One epoch of `Model.train` with the callbacks of a run; adds their CPU seconds to `hooks`."""
    batches = training.batches
    scores = {"top1": Score(0.5, 100, 0.4, 0.6)}
    callbacks = build_callbacks(training, lambda: scores, tracker, signals, folder)
    state = callback.TrainingState(1, batches.steps_per_epoch, batches.batch_size, training.learning_rate)
    dispatch = callback.Dispatch(state, callbacks)
    started = time.perf_counter()
    training.model.train(1, mindspore_dataset(batches), [dispatch], dataset_sink_mode=False)
    seconds = time.perf_counter() - started
    for name, spent in dispatch.hook_seconds.items():
        hooks[name] = hooks.get(name, 0.0) + spent
    return batches.steps_per_epoch * batches.batch_size / seconds


def bare(training: Training) -> float:
    """The loop that a MindSpore tutorial writes: batches in, one step, the loss read."""
    step, batches = training.model.train_network, training.batches
    dataset = mindspore_dataset(batches)
    started = time.perf_counter()
    step.set_train()
    for images, labels in dataset.create_tuple_iterator(num_epochs=1):
        step(images, labels).asnumpy()
    return batches.steps_per_epoch * batches.batch_size / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
