"""From a configuration to the objects of a run."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mindspore
import numpy as np
import pandas as pd
from mindspore import nn
from mindspore.amp import auto_mixed_precision

from rp2k_lab.aug import build_augmentation
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.image_cache import open_cache
from rp2k_lab.dataset.loader import EpochBatches, PhotoViews, ResizedPhotos, TrainingBatches, view_batches
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device import target
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing
from rp2k_lab.model import Network, WithPreprocessing, create_model
from rp2k_lab.model.dropout import seed_masks
from rp2k_lab.model.weights.pretrained import load_pretrained, normalization
from rp2k_lab.train.loss import build_loss
from rp2k_lab.train.optimizer import build_optimizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What `Model.train` works with.

    Attributes:
        network: uint8 images to logits, as evaluated and saved: what is trained, or with `ema_decay` its average.
        model: the trained network with loss and optimizer.
        batches: the training photos, or what a frozen part of the network makes of them.
        learning_rate: float32 (steps,), of every step of the run.
    """

    network: nn.Cell
    model: mindspore.Model
    batches: EpochBatches
    learning_rate: np.ndarray

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return len(self.learning_rate)


def build_photos(config: Config, index: Index) -> ResizedPhotos:
    """The index's photos at the size that the crops are taken from, with the cache that `dataset.cache_gb` allows."""
    return _resized_photos(preprocessing(config), index, config.dataset.cache_gb)


def build_views(predictor: Predictor, index: Index, cache_gb: float) -> PhotoViews:
    """The index's photos as the predictor's members take them, each way with a cache of its own."""
    return PhotoViews([_resized_photos(way, index, cache_gb) for way in predictor.preprocessings])


def _resized_photos(way: Preprocessing, index: Index, cache_gb: float) -> ResizedPhotos:
    return ResizedPhotos(index, way.resized, way.resize, open_cache(index, way.resized, way.resize, cache_gb))


def preprocessing(config: Config) -> Preprocessing:
    """How evaluation brings a photo to the network's input."""
    return Preprocessing(config.size, config.resize, config.crop_ratio)


def build_batches(
    config: Config,
    index: Index,
    photos: ResizedPhotos,
    rows: pd.DataFrame,
    workers: Workers = ALONE,
    start_step: int = 0,
) -> TrainingBatches:
    """Augmented batches of some rows of the index's train: a worker's share of them, from a step of the run on.

    Raises:
        RequestError: a batch larger than the data.
    """
    check_batch_size(config.batch_size, len(rows), workers.count)
    augmentation = build_augmentation(config.aug, config.size, config.dataset.mean)
    return TrainingBatches(
        photos,
        rows,
        augmentation,
        config.size,
        config.batch_size,
        config.seed,
        len(index.classes),
        sampler=config.dataset.sampler,
        start_step=start_step,
        workers=config.device.num_threads,
        sink_steps=config.device.sink_steps,
        worker=workers.rank,
        workers_together=workers.count,
    )


def training_views(
    config: Config, index: Index, photos: ResizedPhotos, rows: pd.DataFrame, epochs: int
) -> Iterator[tuple[list[np.ndarray], list]]:
    """What the first epochs of training make of a few photos, each once an epoch, in the order of `rows`.

    Args:
        rows: of the index's train; together they are a batch.

    Yields:
        (images, uint8 (*size, 3) each, and their labels, as of `TrainingBatches`), an epoch.
    """
    dataset = config.dataset.model_copy(update={"sampler": "uniform"})
    batches = build_batches(
        config.model_copy(update={"batch_size": len(rows), "dataset": dataset}), index, photos, rows
    )
    for epoch in range(epochs):
        back = np.argsort(batches.order(epoch))
        for images, labels in batches:  # one batch an epoch
            yield [images[position] for position in back], [labels[position] for position in back]


def check_batch_size(batch_size: int, photos: int, workers: int = 1) -> None:
    """Raise RequestError unless the training photos fill a batch of every worker."""
    most = photos // workers
    if batch_size > most:
        shared = f" for {workers} workers" if workers > 1 else ""
        raise RequestError(f"batch_size={batch_size}: train has {photos} photos{shared}\nuse batch_size={most} or less")


def build_training(config: Config, batches: TrainingBatches, workers: Workers = ALONE) -> Training:
    """Network, loss and optimizer of a run.

    Raises:
        RequestError: a network that cannot be built so, or more steps to accumulate than the run has.
    """
    network = trained = build_initial_network(config, batches.num_classes)
    if config.optimizer.ema_decay is not None:
        trained = build_initial_network(config, batches.num_classes)
        # The average has the network's names, so that checkpoints of runs with and without it are read alike.
        for parameter in trained.get_parameters():
            parameter.name = f"trained.{parameter.name}"
        # In place, as Model does to what it trains.
        auto_mixed_precision(network, target.amp_options(config.device)["amp_level"])
    if not workers.is_rank_zero:
        seed_masks(trained, config.seed, workers.rank)
    model, learning_rate = build_model(config, trained, batches, network if trained is not network else None)
    return Training(network, model, batches, learning_rate)


def build_model(
    config: Config, trained: nn.Cell, batches: EpochBatches, average: nn.Cell | None = None
) -> tuple[mindspore.Model, np.ndarray]:
    """(what trains the trainable parameters of `trained`; the learning rate of every step, float32 (steps,)).

    Args:
        average: with `ema_decay`, as of `build_optimizer`.

    Raises:
        RequestError: more steps to accumulate than the run has.
    """
    mindspore.set_seed(config.seed)
    optimizer, learning_rate = build_optimizer(
        config.optimizer,
        trained,
        config.epochs,
        batches.steps_per_epoch,
        batches.photos_per_step,
        config.device.loss_scale,
        average=average,
    )
    loss = build_loss(config.loss, np.bincount(batches.labels, minlength=batches.num_classes))
    return mindspore.Model(trained, loss, optimizer, **target.amp_options(config.device)), learning_rate


def build_initial_network(config: Config, num_classes: int) -> WithPreprocessing:
    """`build_network` with the weights that training starts from: the same in every call."""
    network = build_network(config, num_classes)
    if config.model.pretrained:
        load_pretrained(network.network, config.model)
    return network


def build_network(config: Config, num_classes: int) -> WithPreprocessing:
    """uint8 images (batch, height, width, 3) to logits (batch, num_classes), with initial weights.

    Raises:
        RequestError: options that the network cannot have, or images that are too small for it.
    """
    network = create_network(config, num_classes)
    try:
        network.check_input(config.size)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return WithPreprocessing(network, *normalization(config.model, config.dataset))


def create_network(config: Config, num_classes: int) -> Network:
    """The network alone: normalized images (batch, 3, height, width) to logits (batch, num_classes).

    Raises:
        RequestError: options that the network cannot have.
    """
    options = config.model.model_dump(exclude={"name", "pretrained"})
    try:
        return create_model(config.model.name, num_classes, seed=config.seed, **options)
    except ValueError as error:
        raise RequestError(str(error)) from None


def build_evaluators(
    config: Config,
    index: Index,
    views: PhotoViews,
    predictor: Predictor,
    splits: Iterable[str],
    workers: Workers = ALONE,
) -> dict[str, Evaluator]:
    """An evaluator for each of `splits` that the data set has."""
    evaluators = {}
    for split in splits:
        rows = index.split(split)["row"].tolist()
        if rows:
            batches = functools.partial(batches_for, predictor, views, workers.shard(rows), config)
            evaluators[split] = Evaluator(predictor, index, split, batches, workers)
        else:
            log.info("this data set has no %s split: the run ends without it", split)
    return evaluators


def batches_for(
    predictor: Predictor, views: Callable[[int], list[np.ndarray]], rows: Sequence[int], config: Config
) -> Iterator[list[np.ndarray]]:
    """The photos of some rows as the predictor takes them.

    Args:
        views: a row to its photo, resized in each of the predictor's ways.
    """
    crops = [(way.resized, way.size) for way in predictor.preprocessings]
    return view_batches(views, rows, crops, config.batch_size, config.device.num_threads)


def release(training: Training) -> None:
    """Shrink every parameter to one number.

    MindSpore keeps the networks that a process has compiled; a sweep in one process would pile up their weights.
    """
    for parameter in training.model.train_network.get_parameters():
        parameter.set_data(mindspore.Tensor(np.zeros(1, np.float32)), slice_shape=True)
