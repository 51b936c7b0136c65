"""task=train: from photos to a trained, evaluated, recorded network."""

import logging
from collections.abc import Callable
from pathlib import Path

from mindspore import nn

from rp2k_lab import callback, device
from rp2k_lab.build import (
    Training,
    build_batches,
    build_evaluators,
    build_photos,
    build_training,
    preprocessing,
    release,
)
from rp2k_lab.checkpoint import load_checkpoint
from rp2k_lab.config import Config
from rp2k_lab.dataset.batches import PhotoViews, ResizedPhotos
from rp2k_lab.dataset.feed import mindspore_dataset
from rp2k_lab.dataset.index import Index, build_index
from rp2k_lab.disk import Need, check_room
from rp2k_lab.errors import Pruned
from rp2k_lab.interrupt import SignalWatch
from rp2k_lab.metrics import Score, class_groups
from rp2k_lab.parallel import ALONE, Workers, join_workers
from rp2k_lab.prediction import Member, Predictor
from rp2k_lab.record import record_evaluation, record_origin, record_training
from rp2k_lab.report import closing_table
from rp2k_lab.sweep.trial import Trial
from rp2k_lab.tracker import MemoryTracker, MlflowTracker, store_uri
from rp2k_lab.trouble import Trouble

log = logging.getLogger(__name__)

# Predictions of a photo; the confusion pairs are fewer.  Figures, lists and the log of a run.
_BYTES_A_PHOTO, _BYTES_OF_FIGURES = 200, 20_000_000
# Loss and learning rate; a row with its index in SQLite.
_METRICS_A_STEP, _BYTES_A_METRIC = 2, 250


def run(config: Config, folder: Path) -> float:
    """Train, evaluate and record; returns val top-1 of the best epoch.

    Args:
        config: the whole run.
        folder: the run's own folder, for checkpoints, tables and figures; of several workers the first alone writes.
    """
    trial = Trial.of_this_process()
    device.set_up(config.device)
    workers = join_workers(config.device)
    index = build_index(config.dataset)
    photos = build_photos(config, index)
    training = build_training(config, build_batches(config, index, photos, index.split("train"), workers), workers)
    if workers.first:
        check_room(room_taken(config, training, photos, folder))
    with workers.ending_together(), SignalWatch() as signals, open_tracker(config, trial.name, workers) as tracker:
        splits = ("val", "test") if config.task.test else ("val",)
        member = Member(config.model.name, training.network, preprocessing(config))
        predictor = Predictor([member], config.batch_size, check=lambda: workers.check(signals))
        evaluators = build_evaluators(config, index, PhotoViews([photos]), predictor, splits, workers)
        announce(config, index, training)
        if workers.first:
            folder.mkdir(parents=True, exist_ok=True)  # another worker may have taken it for its own, which stays empty
            record_origin(tracker, config, index, folder)
        tracker.set_tags(trial.tags | {"workers": workers.count})
        trial.started(tracker.run_id, folder)
        others = config.dataset.others

        def evaluate():
            workers.average_batch_statistics(training.model.train_network)
            return evaluators["val"].evaluate(others)[2]

        best = train(config, training, evaluate, tracker, signals, trial, folder, workers)
        if workers.first:
            load_checkpoint(training.network, best)
        workers.take_from_first(training.network)
        found = {split: evaluator.evaluate(others) for split, evaluator in evaluators.items()}
        if workers.first:
            for split, evaluator in evaluators.items():
                record_evaluation(tracker, evaluator, found[split], training.steps, folder)
            record_training(tracker, best, folder)
    scores = {split: scores for split, (_, _, scores) in found.items()}
    if workers.first:
        print(closing_table(scores))
        print_where_to_look(tracker, folder, best)
    release(training)
    trial.finished(scores["val"]["top1"].value)
    return scores["val"]["top1"].value


def open_tracker(config: Config, name: str | None, workers: Workers = ALONE) -> MemoryTracker:
    """The run's record, named after its trial, or after model, data set, augmentation and seed; the first worker's."""
    if not workers.first:
        return MemoryTracker()
    name = name or f"{config.model.name}_{config.dataset.name}_{config.aug.name}_seed{config.seed}"
    return MlflowTracker(config.tracking, config.tracking.run_name or name)


def room_taken(config: Config, training: Training, photos: ResizedPhotos, folder: Path) -> list[Need]:
    """What a run will put on disks: into its folder, a store on this machine and the cache."""
    best, last = (_bytes_of(net) for net in (training.network, training.model.train_network))
    tables = _BYTES_OF_FIGURES + _BYTES_A_PHOTO * len(photos.paths)
    needs = [
        Need("checkpoints", folder, 2 * (best + last)),  # each new one is written beside the old
        Need("tables and figures", folder, tables),
    ]
    store = store_uri(config.tracking.uri)
    if store.startswith("sqlite:///"):
        metrics = _METRICS_A_STEP * training.steps * _BYTES_A_METRIC
        needs.append(Need("the store", Path(store.removeprefix("sqlite:///")).parent, best + tables + metrics))
    if photos.cache:
        needs.append(Need("the cache", photos.cache.folder, photos.cache.to_come))
    return needs


def _bytes_of(net: nn.Cell) -> int:
    return sum(parameter.nbytes for parameter in net.get_parameters())


def announce(config: Config, index: Index, training: Training) -> None:
    """What is about to run, in a few lines."""
    counts = ", ".join(f"{n} {split}" for split, n in index.table["split"].value_counts().items())
    log.info("%s: %d classes, %s photos (%s)", config.dataset.name, len(index.classes), counts, index.root)
    log.info("groups: %s", class_groups(index.train_counts())[1])
    parameters = sum(p.size for p in training.network.trainable_params())
    log.info("%s: %.1f M parameters on %s", config.model.name, parameters / 1e6, device.describe(config.device))
    log.info("%d epochs of %d steps; the first step compiles", config.epochs, training.batches.steps_per_epoch)


def train(
    config: Config,
    training: Training,
    evaluate: Callable[[], dict[str, Score]],
    tracker: MemoryTracker,
    signals: SignalWatch,
    trial: Trial,
    folder: Path,
    workers: Workers = ALONE,
) -> Path:
    """Run `Model.train` with the callbacks; returns the best checkpoint.

    Raises:
        Interrupted: a signal came; the last checkpoint is saved.
        DataError: a photo that could not be read.
        TrainingDiverged: the loss is no number any more, or stays at chance.
        Pruned: the study that the run is a trial of asked it to stop.
    """
    dispatch = callback.Dispatch(
        callback.TrainingState(
            config.epochs, training.batches.steps_per_epoch, training.batches.photos_per_step, training.learning_rate
        ),
        build_callbacks(config, training, evaluate, tracker, signals, trial, folder, workers),
    )
    sink_size = training.batches.sink_size
    try:
        training.model.train(
            training.steps // sink_size if sink_size else config.epochs,  # with sinking, MindSpore's epoch is a sink
            mindspore_dataset(training.batches),
            [dispatch],
            dataset_sink_mode=sink_size > 0,
            sink_size=sink_size or -1,
        )
    except RuntimeError:
        if training.batches.failure is not None:  # MindSpore wraps a photo's error in a page of its own
            raise training.batches.failure from None
        raise
    workers.check(signals)
    if trial.pruned:
        raise Pruned(f"pruned by its study after epoch {dispatch.state.epoch}")
    return folder / "checkpoints" / "best.ckpt"


def build_callbacks(
    config: Config,
    training: Training,
    evaluate: Callable[[], dict[str, Score]],
    tracker: MemoryTracker,
    signals: SignalWatch,
    trial: Trial,
    folder: Path,
    workers: Workers = ALONE,
) -> list[callback.Callback]:
    """What happens around the steps, in this order: a loss that is no number is found before it is saved."""
    save = callback.SaveCheckpoints(folder / "checkpoints", training.model.train_network, training.network)
    record = Trouble(training, tracker, folder) if workers.first else lambda state, what: "written down by the first"
    batches, loss = training.batches, config.loss
    chance = callback.chance_loss(batches.labels, batches.num_classes, batches.sampler, loss.label_smoothing)
    of_each = [
        callback.Agree(workers, signals),
        callback.NanGuard(save.last, record),
        callback.StuckGuard(chance, loss.stuck_epochs, loss.stuck, record),
        callback.Throughput(tracker),
        callback.Evaluate(evaluate),
        callback.Prune(trial),
        callback.Track(tracker),
    ]
    return [*of_each, save, callback.ProgressBar()] if workers.first else of_each


def print_where_to_look(tracker: MlflowTracker, folder: Path, best: Path | None = None) -> None:
    """The closing lines; `best` is the checkpoint of a task that trains."""
    page = f"http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}/runs/{tracker.run_id}"
    print(f"\nrun         {tracker.run_name}, id {tracker.run_id}")
    print(f"checkpoint  {best}\nfigures     {folder / 'figures'}" if best else f"folder      {folder}")
    print(f"next        make ui, then {page}")
