"""Training of a network's last layers, on precomputed features where possible."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.loader import ImageViews
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device import target
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.model import Rest
from rp2k_lab.model.network import freeze_all_but_last
from rp2k_lab.train.build import (
    Training,
    batches_for,
    build_batches,
    build_evaluators,
    build_images,
    build_model,
    check_batch_size,
)
from rp2k_lab.train.features import FeatureBatches, compute_features, feature_array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadTuning:
    """A training of last layers with its evaluators.

    Attributes:
        training: its `network` is the whole network.
        evaluators: evaluators of the splits, through the whole network.
        on_val: evaluator after each epoch.
        prepare: to be called once before the training.
    """

    training: Training
    evaluators: dict[str, Evaluator]
    on_val: Evaluator
    prepare: Callable[[], None]


@contextmanager
def build_head_tuning(
    config: Config, index: Index, member: Member, splits: Iterable[str], folder: Path, check: Callable[[], None]
) -> Iterator[HeadTuning]:
    """Yield the training of the member's last layers, as `config.task.tune` selects them.

    It builds `mindspore.Model`, which sets the network's precision, before any graph is compiled: evaluations before
    and after the training have the same precision.

    Args:
        splits: splits to evaluate.
        folder: folder for features that do not fit into memory.
        check: called between batches of images; raises to stop (signals).

    Raises:
        RequestError: the network has no such norm, or batch_size or accumulate_steps are too large.
        DataError: not enough disk space for the features.
    """
    with_norm = config.task.tune == "classifier_bn"
    try:
        freeze_all_but_last(member.network.network, with_norm)
    except ValueError as error:
        raise RequestError(f"task.tune={config.task.tune}: {error}\nuse task.tune=classifier") from None
    trained = ", ".join(parameter.name for parameter in member.network.trainable_params())
    log.info("training %s at %d×%d, %s", trained, *config.size, target.describe(config.device))
    views = ImageViews([build_images(config, index)])
    predictor = Predictor([member], config.batch_size, check=check)
    evaluators = build_evaluators(config, index, views, predictor, splits)
    if with_norm:
        batches = build_batches(config, index, views.sources[0], index.split("train"))
        model, learning_rate = build_model(config, member.network, batches)
        training = Training(member.network, model, batches, learning_rate)
        yield HeadTuning(training, evaluators, evaluators["val"], lambda: None)
        return
    with feature_arrays(index, member, folder) as arrays:

        def prepare() -> None:
            for split, array in arrays.items():
                log.info("computing the features of %d photos of %s", len(array), split)
                rows = index.split(split)["row"].tolist()
                images = batches_for(predictor, views, rows, config, f"computing features of {split}")
                compute_features(member.front, images, config.batch_size, array, check)

        training, on_val = training_on_features(config, index, member, arrays, check)
        yield HeadTuning(training, evaluators, on_val, prepare)


@contextmanager
def feature_arrays(index: Index, member: Member, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Yield empty arrays for train and val, float32 (images, width)."""
    width = member.network.network.head.fc.in_channels
    counts = (len(index.split(split)) for split in ("train", "val"))
    with feature_array(next(counts), width, folder) as train, feature_array(next(counts), width, folder) as val:
        yield {"train": train, "val": val}


def training_on_features(
    config: Config, index: Index, member: Member, arrays: dict[str, np.ndarray], check: Callable[[], None]
) -> tuple[Training, Evaluator]:
    """Return (a training of dropout and classifier on train's features, an evaluator on val's features)."""
    train, size, val = index.split("train"), config.batch_size, arrays["val"]
    labels = train["label"].to_numpy(np.int32)
    check_batch_size(size, len(labels))
    batches = FeatureBatches(
        [arrays["train"]],
        train["path"].tolist(),
        labels,
        size,
        config.seed,
        len(index.classes),
        sampler=config.dataset.sampler,
        num_threads=config.device.num_threads,
        sink_steps=config.device.sink_steps,
    )
    head = Rest(member.network)
    model, learning_rate = build_model(config, head, batches)
    predictor = Predictor([replace(member, network=head)], size, check=check)
    on_val = Evaluator(predictor, index, "val", lambda: ([val[i : i + size]] for i in range(0, len(val), size)))
    return Training(member.network, model, batches, learning_rate), on_val
