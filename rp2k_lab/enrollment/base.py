"""What an extension takes from its base run, once: whitening, centers, val scores, temperatures."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rp2k_lab.analysis.subject import Subject
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import sha256_of
from rp2k_lab.evaluation.open_set import fit_temperature
from rp2k_lab.extension.extension_file import Extension, no_images, read_extension, write_extension
from rp2k_lab.extension.gallery import answer, build_gallery, fit_whitening
from rp2k_lab.model.extended_classifier import ExtendedClassifier
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.train.build import MOST_CALIBRATING
from rp2k_lab.train.feature_cache import FEATURES, features_name

log = logging.getLogger(__name__)

# Part of a kept base's file name; another number when its contents would be other ones.
_VERSION = 1


@dataclass(frozen=True)
class Parent:
    """The network to extend, on its base's images.

    Attributes:
        extension: of the parent; of a base without one, its classes alone.
        train: features of the base's training images, float32 (images, width), possibly memory-mapped.
        train_labels: int (images,), of the base.
        val: whitened features of val, of length 1, float32 (images, width); of at most MOST_CALIBRATING images.
        val_labels: int (images,), of the base.
        val_logits: of the base's head, up to a constant for each image, float32 (images, base classes).
    """

    extension: Extension
    train: np.ndarray
    train_labels: np.ndarray
    val: np.ndarray
    val_labels: np.ndarray
    val_logits: np.ndarray


def load_parent(subject: Subject) -> Parent:
    """Return the network to extend; what comes from its base's images is computed once and kept on disk.

    Args:
        subject: the parent, on its base's data set; its member gets the base's classifier.

    Raises:
        DataError: an image cannot be read, the disk is full, or features are NaN or infinite.
    """
    index, run, member, check = subject.index, subject.run, subject.member, subject.check
    head = member.network.network.head
    head.fc = head.fc.head if isinstance(head.fc, ExtendedClassifier) else head.fc
    train, val_features = subject.features("train"), subject.features("val")
    train_labels, val_labels = (index.split(split)["label"].to_numpy() for split in ("train", "val"))
    some = np.sort(np.random.default_rng(0).permutation(len(val_labels))[:MOST_CALIBRATING])
    features, labels = np.asarray(val_features[some]), val_labels[some]
    probabilities = np.concatenate(list(subject.probabilities(features)))
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    extension = run.extension
    if extension is None:
        kept = FEATURES / f"{features_name(run.checkpoint, index, 'train', member.preprocessing)}.base{_VERSION}"
        extension = _kept_base(kept, run)
        if extension is None:
            extension = _fit_base(run, (train, train_labels), (features, labels, logits), check)
            write_extension(extension, kept)
        extension = replace(extension, base=run.run_id or str(run.checkpoint))
    return Parent(extension, train, train_labels, extension.whitening(features), labels, logits)


def _kept_base(file: Path, run: EarlierRun) -> Extension | None:
    """Return the base that an earlier extension of the same network has fitted, or None."""
    if not file.exists():
        return None
    try:
        extension = read_extension(file)
    except DataError as error:
        log.warning("%s; it is fitted again", str(error).splitlines()[0])
        return None
    return extension if extension.base_classes == run.classes else None


def _fit_base(
    run: EarlierRun,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray, np.ndarray],
    check: Callable[[], None],
) -> Extension:
    """Return the extension without enrolled images.

    Args:
        train: features and labels.
        val: features, labels and the head's logits.
    """
    try:
        whitening = fit_whitening(*train, check=check)
    except ValueError as error:
        raise DataError(f"{run.name}: {error}\nuse weights of an earlier epoch") from None
    gallery = build_gallery(whitening(train[0]), train[1])
    features, labels, logits = val
    vectors = whitening(features)
    answers = answer(gallery, vectors, labels, check)
    return Extension(
        base="",
        base_sha256=sha256_of(run.checkpoint),
        base_classes=run.classes,
        classes=run.classes,
        head_labels=tuple(range(len(run.classes))),
        whitening=whitening,
        base_gallery=gallery,
        enrolled=no_images(features.shape[1]),
        old="head",
        scale=1 / fit_temperature(gallery.scores(vectors), labels),
        head_temperature=fit_temperature(logits, labels),
        val_scores=np.sort(answers.scores),
        val_hidden=np.sort(answers.hidden_scores),
    )
