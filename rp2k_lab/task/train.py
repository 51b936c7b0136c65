"""task=train: from photos to a trained, evaluated, recorded network."""

import logging
from dataclasses import dataclass
from pathlib import Path

import mindspore
import numpy as np
import yaml
from mindspore import nn

from rp2k_lab import callback, device, figures, metrics
from rp2k_lab.checkpoint import load_checkpoint
from rp2k_lab.config import Config
from rp2k_lab.dataset.batches import EvaluationView, TrainingBatches, TrainingView, evaluation_batches
from rp2k_lab.dataset.feed import mindspore_dataset
from rp2k_lab.dataset.index import Index, build_index
from rp2k_lab.errors import RequestError
from rp2k_lab.evaluation import Evaluator
from rp2k_lab.interrupt import SignalWatch
from rp2k_lab.loss import CrossEntropy
from rp2k_lab.metrics import Score
from rp2k_lab.model import Normalise, create_model
from rp2k_lab.optimizer import build_optimizer
from rp2k_lab.provenance import environment, flatten, git_state
from rp2k_lab.report import closing_table
from rp2k_lab.tracker import MemoryTracker, MlflowTracker, without_credentials

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Everything that `Model.train` needs, built from a configuration."""

    network: nn.Cell
    model: mindspore.Model
    batches: TrainingBatches
    learning_rate: np.ndarray


def run(config: Config, folder: Path) -> float:
    """Train, evaluate and record; returns val top-1 of the best epoch.

    Args:
        config: the whole run.
        folder: the run's own folder, for checkpoints and tables; created here, once the request is found right.
    """
    device.set_up(config.device)
    index = build_index(config.dataset)
    training = build_training(config, index)
    with SignalWatch() as signals, open_tracker(config) as tracker:
        evaluators = build_evaluators(config, index, training.network, signals)
        announce(config, index, training)
        record_origin(tracker, config, index, folder)
        best = train(config, training, evaluators["val"], tracker, signals, folder)
        load_checkpoint(training.network, best)
        scores = {split: finish_split(tracker, e, config, folder) for split, e in evaluators.items()}
        record_results(tracker, best, folder)
        print(closing_table(scores))
        print_where_to_look(tracker, best, scores)
    release(training)
    return scores["val"]["top1"].value


def build_training(config: Config, index: Index) -> Training:
    """Batches, network, loss and optimizer of a run."""
    rows = index.split("train")
    if config.batch_size > len(rows):
        raise RequestError(f"batch_size={config.batch_size}: train has {len(rows)} photos\nuse batch_size={len(rows)} or less")
    view = TrainingView(config.size, config.resize, config.crop_ratio, config.aug, config.dataset.mean)
    workers = config.device.data_workers
    batches = TrainingBatches(index.root, rows, view, config.batch_size, config.seed, workers=workers)
    mindspore.set_seed(config.seed)
    network = build_network(config, len(index.classes))
    steps = batches.steps_per_epoch
    optimizer, rates = build_optimizer(config.optimizer, network, config.epochs, steps, config.device.loss_scale)
    loss = CrossEntropy(config.loss.label_smoothing)
    model = mindspore.Model(network, loss, optimizer, **device.amp_options(config.device))
    return Training(network, model, batches, rates)


def build_network(config: Config, num_classes: int) -> nn.Cell:
    """uint8 images (batch, height, width, 3) to logits (batch, num_classes)."""
    options = config.model.model_dump(exclude={"name"})
    try:
        net = create_model(config.model.name, num_classes, seed=config.seed, **options)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return nn.SequentialCell([Normalise(config.dataset.mean, config.dataset.std), net])


def build_evaluators(config: Config, index: Index, network: nn.Cell, signals: SignalWatch) -> dict[str, Evaluator]:
    """An evaluator for val and, where the data set has one, for test."""
    view = EvaluationView(config.size, config.resize, config.crop_ratio)
    size, workers = config.batch_size, config.device.data_workers
    evaluators = {}
    for split in ("val", "test"):
        rows = index.split(split)
        if len(rows):
            batches = lambda rows=rows: evaluation_batches(index.root, rows, view, size, workers)  # noqa: E731
            evaluators[split] = Evaluator(network, index, split, batches, size, signals.check)
    if "test" not in evaluators:
        log.info("this data set has no test split: the run ends with val alone")
    return evaluators


def open_tracker(config: Config) -> MlflowTracker:
    """The run's record, named after model, data set, augmentation and seed unless a name is given."""
    name = f"{config.model.name}_{config.dataset.name}_{config.aug.name}_seed{config.seed}"
    return MlflowTracker(config.tracking, config.tracking.run_name or name)


def announce(config: Config, index: Index, training: Training) -> None:
    """What is about to run, in a few lines."""
    counts = ", ".join(f"{n} {split}" for split, n in index.table["split"].value_counts().items())
    log.info("%s: %d classes, %s (%s)", config.dataset.name, len(index.classes), counts, index.root)
    log.info("groups: %s", metrics.class_groups(index.train_counts())[1])
    parameters = sum(p.size for p in training.network.trainable_params())
    log.info("%s: %.1f M parameters on %s", config.model.name, parameters / 1e6, device.describe(config.device))
    log.info("%d epochs of %d steps; the first step compiles", config.epochs, training.batches.steps_per_epoch)


def record_origin(tracker: MemoryTracker, config: Config, index: Index, folder: Path) -> None:
    """Configuration, environment, code and data of the run."""
    settings = config.model_dump(mode="json")
    if settings["tracking"]["uri"]:
        settings["tracking"]["uri"] = without_credentials(settings["tracking"]["uri"])
    tracker.log_params(dict(flatten(settings)))
    facts = {"task": "train", "device": config.device.name, "dataset_fingerprint": index.fingerprint}
    tracker.set_tags(git_state() | facts | {"folder": folder, "class_groups": metrics.class_groups(index.train_counts())[1]})
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    for name, content in (("config.yaml", text), ("environment.txt", environment())):
        (folder / name).write_text(content, encoding="utf-8")
        tracker.log_artifact(folder / name)


def train(config: Config, training: Training, val: Evaluator, tracker, signals: SignalWatch, folder: Path) -> Path:
    """Run `Model.train` with the callbacks; returns the best checkpoint."""
    checkpoints = callback.SaveCheckpoints(folder / "checkpoints", training.model.train_network, training.network)
    callbacks = [
        callback.StopOnSignal(signals),
        callback.NanGuard(checkpoints.last),
        callback.Throughput(tracker),
        callback.Evaluate(lambda: val.evaluate(config.dataset.others)[2]),
        callback.Track(tracker),
        checkpoints,
        callback.ProgressBar(),
    ]
    steps = training.batches.steps_per_epoch
    state = callback.TrainingState(config.epochs, steps, config.batch_size, training.learning_rate)
    try:
        training.model.train(
            config.epochs,
            mindspore_dataset(training.batches),
            [callback.Dispatch(state, callbacks)],
            dataset_sink_mode=config.device.sink_steps > 0,
            sink_size=config.device.sink_steps or -1,
        )
    except RuntimeError:
        if training.batches.failure is not None:  # MindSpore wraps a photo's error in a page of its own
            raise training.batches.failure from None
        raise
    signals.check()
    return checkpoints.best


def finish_split(tracker: MemoryTracker, evaluator: Evaluator, config: Config, folder: Path) -> dict[str, Score]:
    """Evaluate a split once with the best weights; record scores, tables and figures."""
    split, index = evaluator.split, evaluator.index
    predictions, table, scores = evaluator.evaluate(config.dataset.others)
    steps = config.epochs * (len(index.split("train")) // config.batch_size)
    values = {f"{split}/{name}": score.value for name, score in scores.items()}
    counts = {f"{split}/{name.replace('top1', 'count')}": score.count for name, score in scores.items() if "top1" in name}
    tracker.log_metrics(values | counts, steps)
    details = metrics.predictions_table(predictions, evaluator.rows["path"], index.classes)
    tables = {
        "per_class": table,
        "confusion_pairs": metrics.confusion_pairs(predictions, index.classes),
        "predictions": details,
    }
    for name, frame in tables.items():
        file = folder / split / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        frame.to_parquet(file, index=False)
        tracker.log_artifact(file, split)
    figures.use_readable_fonts()
    drawn = [
        figures.plot_accuracy_over_class_size(table, split, folder / "figures" / f"{split}_accuracy_over_class_size.png"),
        figures.plot_confused_pairs(details, index, split, folder / "figures" / f"{split}_confused_pairs.png"),
    ]
    for figure in filter(None, drawn):
        tracker.log_artifact(figure, "figures")
    return scores


def record_results(tracker: MemoryTracker, best: Path, folder: Path) -> None:
    """The best checkpoint and the curves."""
    tracker.log_artifact(best, "checkpoints")
    tracker.log_artifact(figures.plot_curves(tracker.history, folder / "figures" / "curves.png"), "figures")


def print_where_to_look(tracker: MlflowTracker, best: Path, scores: dict[str, dict[str, Score]]) -> None:
    """The closing lines."""
    print(f"\nrun         {tracker.run_name}, id {tracker.run_id}")
    print(f"checkpoint  {best}")
    print(f"figures     {best.parent.parent / 'figures'}")
    print(f"next        make ui, then http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}/runs/{tracker.run_id}")


def release(training: Training) -> None:
    """Shrink every parameter: MindSpore keeps a process's compiled networks, which a sweep in one process would pile up."""
    for parameter in training.model.train_network.get_parameters():
        parameter.set_data(mindspore.Tensor(np.zeros(1, np.float32)), slice_shape=True)
