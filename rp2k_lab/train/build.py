"""Build the objects of a run from its configuration."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mindspore
import numpy as np
import pandas as pd
from mindspore import nn
from mindspore.train.loss_scale_manager import FixedLossScaleManager

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.progress import activity, progress
from rp2k_lab.dataset.image_cache import open_cache
from rp2k_lab.dataset.loader import EpochBatches, ImageViews, ResizedImages, TrainingBatches, view_batches
from rp2k_lab.dataset.normalization import with_normalization as measured
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device import precision
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.evaluation.open_set import OpenSet, conformal, fit_temperature
from rp2k_lab.evaluation.predictor import Predictor, Preprocessing
from rp2k_lab.model import Front, Network, Rest, WithPreprocessing, create_model
from rp2k_lab.model.dropout import seed_masks
from rp2k_lab.model.weights.pretrained import load_pretrained, normalization
from rp2k_lab.train.distillation import Distillation, WithImages, frozen
from rp2k_lab.train.features import FeatureBatches
from rp2k_lab.train.loss_cells import build_loss
from rp2k_lab.train.loss_scale import DynamicScaleStep
from rp2k_lab.train.updates import TRAINED, Plan, build_optimizer

log = logging.getLogger(__name__)

# Images of val that a temperature and a threshold are taken from: a quantile of 5 % is then known to 1 %.
MOST_CALIBRATING = 2000


@dataclass(frozen=True)
class Training:
    """The network, model and batches of a training.

    Attributes:
        network: uint8 images to logits, evaluated and saved: the trained network, or with `ema_decay` its average.
        model: the trained network with loss and optimizer.
        batches: training images, or their features from a frozen part of the network.
        learning_rate: float32 (steps,), for every step of the run.
        teachers: frozen networks within the loss.
        front: frozen stages of the trained network whose outputs `batches` has; None: `batches` has images.
        prepare: fills `batches`, called once when the weights are those to start from; its argument is called between
            batches of images and raises to stop.
        val_images, closing_images: number of images that each epoch and the end of the run evaluate, for the remaining
            time; 0: unknown.
    """

    network: nn.Cell
    model: mindspore.Model
    batches: EpochBatches
    learning_rate: np.ndarray
    teachers: Sequence[nn.Cell] = ()
    front: Front | None = None
    prepare: Callable[[Callable[[], None]], None] = lambda check: None
    val_images: int = 0
    closing_images: int = 0

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return len(self.learning_rate)


def with_normalization(config: Config, index: Index) -> Config:
    """Return the configuration with measured `dataset.mean` and `dataset.std`, where they are null.

    Raises:
        DataError: an image cannot be read.
    """
    return config.model_copy(update={"dataset": measured(config.dataset, index)})


def build_images(config: Config, index: Index) -> ResizedImages:
    """Return the index's images at the size before the crop, with a cache of at most `dataset.cache_gb` (10⁹ bytes)."""
    return _resized_images(preprocessing(config), index, config.dataset.cache_gb)


def build_views(predictor: Predictor, index: Index, cache_gb: float) -> ImageViews:
    """Return the index's images in each of the predictor's preprocessings, with separate caches."""
    return ImageViews([_resized_images(each, index, cache_gb) for each in predictor.preprocessings])


def _resized_images(preprocessing: Preprocessing, index: Index, cache_gb: float) -> ResizedImages:
    size, resize = preprocessing.resized, preprocessing.resize
    return ResizedImages(index, size, resize, open_cache(index, size, resize, cache_gb))


def preprocessing(config: Config) -> Preprocessing:
    """Return evaluation's preprocessing of images."""
    return Preprocessing(config.size, config.resize, config.crop_ratio)


def build_batches(
    config: Config,
    index: Index,
    images: ResizedImages,
    rows: pd.DataFrame,
    workers: Workers = ALONE,
    start_step: int = 0,
) -> TrainingBatches:
    """Return augmented batches of rows of the index's train split: those of one rank, from `start_step` on.

    Raises:
        RequestError: the batch is larger than the data.
    """
    check_batch_size(config.batch_size, len(rows), workers.world_size)
    assert config.dataset.mean is not None, "with_normalization comes first"
    augmentation = config.aug.build(config.size, config.dataset.mean)
    return TrainingBatches(
        images,
        rows,
        augmentation,
        config.size,
        config.batch_size,
        config.seed,
        len(index.classes),
        sampler=config.dataset.sampler,
        start_step=start_step,
        num_threads=config.device.num_threads,
        sink_steps=config.device.sink_steps,
        rank=workers.rank,
        world_size=workers.world_size,
    )


def training_views(
    config: Config, index: Index, images: ResizedImages, rows: pd.DataFrame, epochs: int
) -> Iterator[tuple[list[np.ndarray], list]]:
    """Yield a few augmented images of the first epochs of training, in the order of `rows`.

    Args:
        rows: rows of the index's train split, which form one batch.

    Yields:
        (images, uint8 (*size, 3) each; their labels, see `TrainingBatches`), once an epoch.
    """
    dataset = config.dataset.model_copy(update={"sampler": "uniform"})
    batches = build_batches(
        config.model_copy(update={"batch_size": len(rows), "dataset": dataset}), index, images, rows
    )
    for epoch in range(epochs):
        positions = np.argsort(batches.order(epoch))
        for views, labels in batches:  # one batch an epoch
            yield [views[position] for position in positions], [labels[position] for position in positions]


def check_batch_size(batch_size: int, num_images: int, world_size: int = 1) -> None:
    """Raise RequestError unless the training images fill a batch on every rank."""
    most = num_images // world_size
    if batch_size > most:
        shared = f" for {world_size} workers" if world_size > 1 else ""
        raise RequestError(
            f"batch_size={batch_size}: train has {num_images} photos{shared}\nuse batch_size={most} or less"
        )


@activity("building the network")
def build_training(
    config: Config, batches: EpochBatches, workers: Workers = ALONE, teachers: Sequence[nn.Cell] = ()
) -> Training:
    """Return network, loss and optimizer of a run.

    Args:
        batches: images, or `FeatureBatches` with outputs of the frozen stages.
        teachers: trained networks for `loss.distillation`, uint8 images to logits; they are frozen and renamed.

    Raises:
        RequestError: invalid options of the network, or more steps to accumulate than the run has.
    """
    network = trained = build_initial_network(config, batches.num_classes)
    if config.optimizer.ema_decay is not None:
        trained = build_initial_network(config, batches.num_classes)
        # The average has the network's names, so checkpoints of runs with and without it have the same form.
        for parameter in trained.get_parameters():
            parameter.name = f"{TRAINED}{parameter.name}"
        precision.cast(network, config.device.precision)  # as `build_model` does to the trained network
    teachers = [frozen(teacher, i, config.device.precision) for i, teacher in enumerate(teachers, 1)]
    if not workers.is_rank_zero:
        seed_masks(trained, config.seed, workers.rank)
    average, front = network if trained is not network else None, None
    if isinstance(batches, FeatureBatches):
        stages = config.model.kept_stages
        front, trained = Front(trained, stages), Rest(trained, stages)
    model, learning_rate = build_model(config, trained, batches, average, teachers)
    return Training(network, model, batches, learning_rate, teachers, front)


def build_model(
    config: Config,
    trained: nn.Cell,
    batches: EpochBatches,
    average: nn.Cell | None = None,
    teachers: Sequence[nn.Cell] = (),
) -> tuple[mindspore.Model, np.ndarray]:
    """Return (a model that trains the trainable parameters of `trained`; its learning rates, float32 (steps,)).

    Args:
        average: with `ema_decay`, see `build_optimizer`.
        teachers: see `train.distillation.frozen`; none: `loss.distillation` has no effect.

    Raises:
        RequestError: more steps to accumulate than the run has.
    """
    mindspore.set_seed(config.seed)
    plan = Plan(config.epochs, batches.steps_per_epoch, batches.images_per_step, precision.fixed_scale(config.device))
    optimizer, learning_rate = build_optimizer(config.optimizer, config.schedule, trained, plan, average)
    counts = np.bincount(batches.labels, minlength=batches.num_classes)
    loss = build_loss(config.loss.build(counts), config.model, batches.steps_per_epoch, len(learning_rate))
    if teachers:
        loss = Distillation(loss, teachers, config.loss.distillation, config.loss.temperature)
        trained = WithImages(trained)
    trained = precision.cast(trained, config.device.precision)
    if precision.has_dynamic_scale(config.device):
        step = DynamicScaleStep(nn.WithLossCell(trained, loss), optimizer).set_train()
        return mindspore.Model(step), learning_rate
    # Without overflow checks, as in the contest entry.
    manager = None if plan.loss_scale == 1 else FixedLossScaleManager(plan.loss_scale, drop_overflow_update=False)
    return mindspore.Model(trained, loss, optimizer, loss_scale_manager=manager), learning_rate


def build_initial_network(config: Config, num_classes: int) -> WithPreprocessing:
    """Return `build_network` with the weights at the start of training, equal in every call."""
    network = build_network(config, num_classes)
    if config.model.pretrained:
        load_pretrained(network.network, config.model)
    return network


def build_network(config: Config, num_classes: int) -> WithPreprocessing:
    """Return uint8 images (batch, height, width, 3) to logits (batch, num_classes), with initial weights.

    Raises:
        RequestError: invalid options of the network, or images too small for it.
    """
    network = create_network(config, num_classes)
    try:
        network.check_input(config.size)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return WithPreprocessing(network, *normalization(config.model, config.dataset))


def create_network(config: Config, num_classes: int) -> Network:
    """Return normalized images (batch, 3, height, width) to logits (batch, num_classes), with initial weights.

    Raises:
        RequestError: invalid options of the network.
    """
    margin = {"head_margin", "head_margin_schedule", "head_margin_epochs"}  # the loss has it
    options = config.model.model_dump(exclude={"name", "pretrained", "freeze_views", *margin})
    try:
        return create_model(config.model.name, num_classes, seed=config.seed, **options)
    except ValueError as error:
        raise RequestError(str(error)) from None


def build_evaluators(
    config: Config,
    index: Index,
    views: ImageViews,
    predictor: Predictor,
    splits: Iterable[str],
    workers: Workers = ALONE,
) -> dict[str, Evaluator]:
    """Return an evaluator for each of `splits` that the data set has."""
    evaluators = {}
    for split in splits:
        rows = index.split(split)["row"].tolist()
        if rows:
            batches = functools.partial(
                batches_for, predictor, views, workers.shard(rows), config, f"evaluating {split}"
            )
            evaluators[split] = Evaluator(predictor, index, split, batches, workers)
        else:
            log.info("the data set has no %s split: it is not evaluated", split)
    return evaluators


def measure_open_set(config: Config, index: Index, views: ImageViews, predictor: Predictor) -> OpenSet:
    """Return what the predictor's scores of val say about known images, with its temperature.

    At most MOST_CALIBRATING images of val are used, drawn with a fixed seed.
    """
    val = index.split("val")
    some = np.sort(np.random.default_rng(0).permutation(len(val))[:MOST_CALIBRATING])
    batches = batches_for(predictor, views, val["row"].iloc[some].tolist(), config, "measuring the open set on val")
    probabilities = np.concatenate([average for _, average in predictor(batches)])
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    temperature = fit_temperature(logits, val["label"].to_numpy()[some])
    return conformal(softmax(logits / np.float32(temperature)).max(axis=1), temperature)


def batches_for(
    predictor: Predictor,
    views: Callable[[int], list[np.ndarray]],
    rows: Sequence[int],
    config: Config,
    what: str = "reading photos",
) -> Iterator[list[np.ndarray]]:
    """Yield batches of the images of some rows in each of the predictor's preprocessings, and show the progress.

    Args:
        views: a row to its image, resized for each preprocessing.
        what: what the caller does with the images, as for `core.progress.progress`.
    """
    crops = [(each.resized, each.size) for each in predictor.preprocessings]
    batches = view_batches(views, rows, crops, config.batch_size, config.device.num_threads)
    return progress(batches, len(rows), what, lambda batch: len(batch[0]))


def release(training: Training) -> None:
    """Shrink every parameter to one number.

    MindSpore 2.10 keeps the compiled networks of a process: 200 MB for each training of a ResNet-18.
    """
    for net in (training.model.train_network, *training.teachers):
        for parameter in net.get_parameters():
            parameter.set_data(mindspore.Tensor(np.zeros(1, np.float32)), slice_shape=True)
