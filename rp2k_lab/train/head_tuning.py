"""Training of a network's last layers alone, by way of features where they stay the same."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.loader import PhotoViews
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device import target
from rp2k_lab.evaluation.evaluator import Evaluator
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.model.network import freeze_all_but_last
from rp2k_lab.train.build import (
    Training,
    batches_for,
    build_batches,
    build_evaluators,
    build_model,
    build_photos,
    check_batch_size,
)
from rp2k_lab.train.features import FeatureBatches, OnFeatures, compute_features, feature_array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadTuning:
    """What is to be trained, and how.

    Attributes:
        training: its network is the whole one.
        evaluators: of the splits, through the whole network.
        on_val: evaluates the network as it stands, after each epoch.
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
    """How the member's last layers are trained, `config.task.tune` of them.

    `mindspore.Model` is made before any graph is compiled, since it sets the precision of the network that it is given:
    the network is judged in the same precision before and after.

    Args:
        splits: of `evaluators`.
        folder: for features that do not fit into memory.
        check: called between batches of photos; raises to stop (a signal).

    Raises:
        RequestError: no such norm, or more photos in a batch, or steps to accumulate, than there are.
        DataError: no room for the features.
    """
    with_norm = config.task.tune == "classifier_bn"
    try:
        freeze_all_but_last(member.network.network, with_norm)
    except ValueError as error:
        raise RequestError(f"task.tune={config.task.tune}: {error}\nuse task.tune=classifier") from None
    trained = ", ".join(parameter.name for parameter in member.network.trainable_params())
    log.info("training %s at %d×%d, %s", trained, *config.size, target.describe(config.device))
    views = PhotoViews([build_photos(config, index)])
    predictor = Predictor([member], config.batch_size, check=check)
    evaluators = build_evaluators(config, index, views, predictor, splits)
    if with_norm:
        batches = build_batches(config, index, views.photos[0], index.split("train"))
        model, learning_rate = build_model(config, member.network, batches)
        training = Training(member.network, model, batches, learning_rate)
        yield HeadTuning(training, evaluators, evaluators["val"], lambda: None)
        return
    with feature_arrays(index, member, folder) as arrays:

        def prepare() -> None:
            for split, array in arrays.items():
                log.info("features of %d photos of %s, computed once", len(array), split)
                photos = batches_for(predictor, views, index.split(split)["row"].tolist(), config)
                compute_features(member.network, photos, config.batch_size, array, check)

        training, on_val = training_on_features(config, index, member, arrays, check)
        yield HeadTuning(training, evaluators, on_val, prepare)


@contextmanager
def feature_arrays(index: Index, member: Member, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """For train and val: float32 (photos, width), not filled yet."""
    width = member.network.network.head.fc.in_channels
    counts = (len(index.split(split)) for split in ("train", "val"))
    with feature_array(next(counts), width, folder) as train, feature_array(next(counts), width, folder) as val:
        yield {"train": train, "val": val}


def training_on_features(
    config: Config, index: Index, member: Member, arrays: dict[str, np.ndarray], check: Callable[[], None]
) -> tuple[Training, Evaluator]:
    """(training of dropout and classifier on train's features, shuffled as photos are; an evaluator on val's)."""
    train, size, val = index.split("train"), config.batch_size, arrays["val"]
    labels = train["label"].to_numpy(np.int32)
    check_batch_size(size, len(labels))
    batches = FeatureBatches(
        arrays["train"],
        train["path"].tolist(),
        labels,
        size,
        config.seed,
        len(index.classes),
        sampler=config.dataset.sampler,
        workers=config.device.num_threads,
        sink_steps=config.device.sink_steps,
    )
    head = OnFeatures(member.network)
    model, learning_rate = build_model(config, head, batches)
    predictor = Predictor([replace(member, network=head)], size, check=check)
    on_val = Evaluator(predictor, index, "val", lambda: ([val[i : i + size]] for i in range(0, len(val), size)))
    return Training(member.network, model, batches, learning_rate), on_val
