"""What an extension takes from its base run, once: whitening, centers, val scores, temperatures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rp2k_lab.analysis.analyze_run import feature_probabilities, split_features
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import sha256_of
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.open_set import fit_temperature
from rp2k_lab.evaluation.predictor import Member
from rp2k_lab.extension.extension_file import Extension, OldClasses, no_images
from rp2k_lab.extension.gallery import answer, build_gallery, fit_whitening
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.train.build import MOST_CALIBRATING


@dataclass(frozen=True)
class Parent:
    """The network to extend, on its base's images.

    Attributes:
        extension: of the parent; of a base without one, its classes alone.
        train: features of the base's training images, float32 (images, width), possibly memory-mapped.
        train_labels: int (images,), of the base.
        val: whitened features of val of length 1, float32 (images, width).
        val_features: the same before whitening.
        val_labels: int (images,), of the base.
    """

    extension: Extension
    train: np.ndarray
    train_labels: np.ndarray
    val: np.ndarray
    val_features: np.ndarray
    val_labels: np.ndarray


def load_parent(
    config: Config, index: Index, run: EarlierRun, member: Member, old: OldClasses, check: Callable[[], None]
) -> Parent:
    """Return the network to extend; features of its base's images are computed once and kept on disk.

    Args:
        index: the base's data set.
        old: form of the old classes, if `run` is no extension.
        check: called between batches; raises to stop (a signal).

    Raises:
        DataError: an image cannot be read, the disk is full, or features are NaN or infinite.
    """
    train = split_features(config, index, run, member, "train", check)
    val_features = split_features(config, index, run, member, "val", check)
    train_labels, val_labels = (index.split(split)["label"].to_numpy() for split in ("train", "val"))
    if run.extension:
        val = run.extension.whitening(val_features)
        return Parent(run.extension, train, train_labels, val, val_features, val_labels)
    try:
        whitening = fit_whitening(train, train_labels, check=check)
    except ValueError as error:
        raise DataError(f"{run.name}: {error}\nuse weights of an earlier epoch") from None
    gallery = build_gallery(whitening(train), train_labels)
    val = whitening(val_features)
    answers = answer(gallery, val, val_labels, check)
    some = np.random.default_rng(0).permutation(len(val))[:MOST_CALIBRATING]
    extension = Extension(
        base=run.run_id or str(run.checkpoint),
        base_sha256=sha256_of(run.checkpoint),
        base_classes=run.classes,
        classes=run.classes,
        head_labels=tuple(range(len(run.classes))),
        whitening=whitening,
        base_gallery=gallery,
        enrolled=no_images(train.shape[1]),
        old=old,
        scale=1 / fit_temperature(gallery.scores(val[some]), val_labels[some]),
        head_temperature=_head_temperature(member, val_features[some], val_labels[some], config.batch_size, check),
        val_scores=np.sort(answers.scores),
        val_hidden=np.sort(answers.hidden_scores),
    )
    return Parent(extension, train, train_labels, val, val_features, val_labels)


def _head_temperature(
    member: Member, features: np.ndarray, labels: np.ndarray, batch_size: int, check: Callable[[], None]
) -> float:
    probabilities = np.concatenate(list(feature_probabilities(member, features, batch_size, check)))
    return fit_temperature(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)), labels)
