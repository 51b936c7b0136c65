"""A training between its first step and its best checkpoint: callbacks, checkpoints, space on the disks."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mindspore import nn

from rp2k_lab.config.schema import Config
from rp2k_lab.core.disk import SpaceNeed, check_disk_features, check_disk_space
from rp2k_lab.core.errors import Pruned
from rp2k_lab.core.quoting import sqlite_file
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.loader import ResizedImages
from rp2k_lab.dataset.mindspore_dataset import mindspore_dataset
from rp2k_lab.device.workers import ALONE, Workers, batch_statistics
from rp2k_lab.evaluation.metrics import Score
from rp2k_lab.tracking.mlflow_store import store_uri
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.tracking.trial_client import Trial
from rp2k_lab.train import callbacks
from rp2k_lab.train.build import Training
from rp2k_lab.train.checkpoint import CheckpointFolder
from rp2k_lab.train.failure_dump import FailureDump
from rp2k_lab.train.optional_callbacks import CallbackContext
from rp2k_lab.train.resume import Start

log = logging.getLogger(__name__)

# An image's predictions (there are fewer confusion pairs); a run's figures, lists and log.
_BYTES_AN_IMAGE, _BYTES_OF_FIGURES = 200, 20_000_000
# Loss and learning rate; a row with its index in SQLite.
_METRICS_A_STEP, _BYTES_A_METRIC = 2, 250


@dataclass(frozen=True)
class Control:
    """What a training reports to, and what may stop it."""

    tracker: MemoryTracker
    signals: StopSignal
    trial: Trial
    workers: Workers = ALONE

    def check(self) -> None:
        """Raise Interrupted on every rank, once a signal came to one of them."""
        self.workers.check(self.signals)


def train(
    config: Config, training: Training, evaluate: Callable[[], dict[str, Score]], start: Start, control: Control
) -> Path:
    """Run `Model.train` with the callbacks from `start`; return the best checkpoint.

    Raises:
        Interrupted: a signal came; the last checkpoint is saved.
        DataError: an image cannot be read.
        TrainingDiverged: the loss is NaN, infinite or stuck at chance.
        Pruned: the study asked the run to stop.
    """
    checkpoints = CheckpointFolder(start.folder / "checkpoints", config.task.checkpoints_kept)
    state, batches = restore_state(start, config, training, control.tracker, checkpoints), training.batches
    training.prepare(control.check)
    observers = build_callbacks(config, training, evaluate, checkpoints, control)
    dispatch, sink_size = callbacks.Dispatch(state, observers), batches.sink_size

    def train_epochs(epochs: int) -> None:
        training.model.train(
            # With data sinking, MindSpore's epoch is one sink.
            (state.steps - state.step) // sink_size if sink_size else epochs,
            mindspore_dataset(batches),
            [dispatch],
            dataset_sink_mode=sink_size > 0,
            sink_size=sink_size or -1,
        )

    try:
        dispatch.run(train_epochs)
    except RuntimeError:
        if batches.failure is not None:  # MindSpore wraps an image's error in a page of text
            raise batches.failure from None
        raise
    control.check()
    if control.trial.pruned:
        raise Pruned(f"pruned by its study after epoch {state.epoch}")
    return checkpoints.best


def restore_state(
    start: Start, config: Config, training: Training, tracker: MemoryTracker, checkpoints: CheckpointFolder
) -> callbacks.TrainingState:
    """Return the initial training state; load the weights and rewind the metrics of a resumed run."""
    batches = training.batches
    state = callbacks.TrainingState(
        config.epochs, batches.steps_per_epoch, batches.images_per_step, training.learning_rate
    )
    if start.run:
        tracker.rewind(start.position.logged if start.position else {}, start.step)
    if start.position:
        checkpoints.restore(training.model.train_network, start.position)
        state.resume(start.position)
    return state


def build_callbacks(
    config: Config,
    training: Training,
    evaluate: Callable[[], dict[str, Score]],
    checkpoints: CheckpointFolder,
    control: Control,
) -> list[callbacks.Callback]:
    """Return the callbacks in order: the NaN guard comes before the checkpoints."""
    task, tracker, workers = config.task, control.tracker, control.workers
    nets = (training.model.train_network, training.network)
    save = callbacks.SaveCheckpoints(checkpoints, *nets, tracker, task.checkpoint_epochs, task.checkpoint_minutes)
    dump = (
        FailureDump(training, tracker, checkpoints.folder.parent) if workers.is_rank_zero else lambda *_: "see rank 0"
    )
    observers = [
        callbacks.SyncWorkers(workers, control.signals),
        callbacks.NanGuard(checkpoints.last, dump, batch_statistics(training.model.train_network)),
        callbacks.Throughput(tracker),
        callbacks.SystemMetrics(tracker),
        callbacks.Evaluate(evaluate),
        callbacks.Prune(control.trial),
        callbacks.LogMetrics(tracker),
    ]
    context = CallbackContext(training, tracker, checkpoints.folder.parent, workers)
    chosen = [options.build(context) for options in config.callback.chosen()]
    if not workers.is_rank_zero:
        return [*observers, *chosen]
    guard, chance = task.chance_guard, chance_loss(config, training)
    if chance is not None:
        chosen.append(callbacks.ChanceGuard(tracker, chance, guard.epochs, guard.action, dump))
    elif guard.epochs is not None:
        log.info("no chance guard: the lowest loss of a constant prediction is unknown with these options")
    return [*observers, *chosen, save, callbacks.ProgressBar(training.val_images, training.closing_images)]


def chance_loss(config: Config, training: Training) -> float | None:
    """Return the lowest loss of a constant prediction; None: unknown, as with a margin or teachers, which change it."""
    if config.model.final_margin or training.teachers:
        return None
    batches = training.batches
    return config.loss.chance(callbacks.mean_target(batches.labels, batches.num_classes, batches.sampler))


@contextmanager
def best_weights_alone(config: Config, folder: Path, workers: Workers = ALONE) -> Iterator[None]:
    """Remove the training state of a run that finishes or is pruned in the block, unless `task.keep_state`."""
    is_over = False
    try:
        yield
        is_over = True
    except Pruned:
        is_over = True
        raise
    finally:
        if is_over and workers.is_rank_zero and not config.task.keep_state:
            CheckpointFolder(folder / "checkpoints", config.task.checkpoints_kept).keep_best()


def check_disk(config: Config, training: Training, images: ResizedImages, folder: Path) -> None:
    """Raise RequestError unless the disks have what a run in a folder needs, its cache included."""
    cache = [SpaceNeed("the cache", images.cache.folder, images.cache.remaining_bytes)] if images.cache else []
    has_links = check_disk_features(folder)
    check_disk_space(required_space(config, training, len(images.paths), folder, has_links) + cache)


def required_space(
    config: Config, training: Training, images: int, folder: Path, has_links: bool = True
) -> list[SpaceNeed]:
    """Return the space that a run on `images` images needs in its folder and in a store on this machine.

    Args:
        has_links: whether the folder's disk has links; else best.ckpt and last.ckpt are copies.
    """
    best, last = (_bytes_of(net) for net in (training.network, training.model.train_network))
    # Without best.ckpt and last.ckpt.
    existing = sum(file.stat().st_size for file in folder.glob("checkpoints/*-*.ckpt"))
    generations = config.task.checkpoints_kept + 1  # a new one is written before the oldest is deleted
    generations += not has_links
    tables = _BYTES_OF_FIGURES + _BYTES_AN_IMAGE * images
    needs = [
        SpaceNeed("checkpoints", folder, max(0, generations * (best + last) - existing)),
        SpaceNeed("tables and figures", folder, tables),
    ]
    store = sqlite_file(store_uri(config.tracking.uri))
    if store and config.tracking.name != "offline":
        metrics = _METRICS_A_STEP * training.steps * _BYTES_A_METRIC
        needs.append(SpaceNeed("the store", store.parent, best + tables + metrics))
    return needs


def _bytes_of(net: nn.Cell) -> int:
    return sum(parameter.nbytes for parameter in net.get_parameters())
