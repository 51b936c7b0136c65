"""extension.safetensors: all that an extended network has beside its base's weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.extension.gallery import Gallery, Whitening, class_centers, divided_by_head, join_galleries, log_softmax

_VERSION = 1
OldClasses = Literal["head", "centers"]


@dataclass(frozen=True)
class Enrolled:
    """The vectors of enrolled images, in the order of (label, sha256): no other order changes a center.

    Attributes:
        vectors: whitened features of length 1, float32 (images, width).
        labels: int32 (images,), positions in the extension's classes, ascending.
        sha256: of each image's bytes (of a crop, with its box), ascending within a label.
    """

    vectors: np.ndarray
    labels: np.ndarray
    sha256: tuple[str, ...]

    def __post_init__(self):
        assert len(self.vectors) == len(self.labels) == len(self.sha256)

    def sorted(self) -> "Enrolled":
        """Return the images in the order of (label, sha256), each image of a label once."""
        pairs = zip(self.labels.tolist(), self.sha256, strict=True)
        keys = sorted({key: row for row, key in enumerate(pairs)}.items())
        rows = np.array([row for _, row in keys], np.int64)
        return Enrolled(self.vectors[rows], self.labels[rows], tuple(sha for (_, sha), _ in keys))

    def joined(self, other: "Enrolled") -> "Enrolled":
        """Return the images of both, sorted."""
        vectors = np.concatenate([self.vectors, other.vectors])
        labels = np.concatenate([self.labels, other.labels])
        return Enrolled(vectors, labels, self.sha256 + other.sha256).sorted()

    def relabeled(self, new_labels: np.ndarray) -> "Enrolled":
        """Return the images with `new_labels`[label], int (classes,), sorted; those that become -1 are left out."""
        labels = new_labels[self.labels].astype(np.int32)
        kept = np.flatnonzero(labels >= 0)
        return Enrolled(self.vectors[kept], labels[kept], tuple(self.sha256[row] for row in kept)).sorted()


def no_images(width: int) -> Enrolled:
    """Return no enrolled image, for features of this width."""
    return Enrolled(np.empty((0, width), np.float32), np.empty(0, np.int32), ())


@dataclass(frozen=True)
class Extension:
    """An extended network without its base's weights.

    Its whitening, its base's centers and its val scores come from the base run and never change, so an extension moves
    no old vector.

    Attributes:
        base: id of the base run, or the path of its checkpoint file.
        base_sha256: of the base's checkpoint.
        base_classes: names of the classes of the base's head, in label order.
        classes: names in label order: the base's that are left, in its order, then enrolled ones.
        head_labels: for each class its label in the base, -1: an enrolled class.
        whitening: of the base's training images.
        base_gallery: centers of all base classes, also of removed ones.
        enrolled: images of new classes, and added images of old ones.
        old: head: the base's head divides the old classes' probability; centers: all classes by centers alone.
        scale: factor of the cosines, > 0.
        head_temperature: divisor of the head's logits, > 0.
        val_scores: largest cosine of each val image of the base, float32, ascending.
        val_hidden: the same without the image's own class: what a product that is not listed gets; ascending.
    """

    base: str
    base_sha256: str
    base_classes: tuple[str, ...]
    classes: tuple[str, ...]
    head_labels: tuple[int, ...]
    whitening: Whitening
    base_gallery: Gallery
    enrolled: Enrolled
    old: OldClasses
    scale: float
    head_temperature: float
    val_scores: np.ndarray
    val_hidden: np.ndarray

    @cached_property
    def gallery(self) -> Gallery:
        """The centers of `classes`: of a base class the base's, then those of its added images."""
        parts, base, enrolled = [], self.base_gallery, self.enrolled
        of_base = np.searchsorted(base.labels, np.arange(len(self.base_classes) + 1))
        of_enrolled = np.searchsorted(enrolled.labels, np.arange(len(self.classes) + 1))
        for label, head_label in enumerate(self.head_labels):
            centers = [class_centers(enrolled.vectors[of_enrolled[label] : of_enrolled[label + 1]])]
            if head_label >= 0:
                centers.insert(0, base.centers[of_base[head_label] : of_base[head_label + 1]])
            joined = np.concatenate(centers)
            parts.append(Gallery(joined, np.zeros(len(joined), np.int32)))
        return join_galleries(parts)

    @property
    def old_classes(self) -> int:
        """Number of the base's classes that are left; they come first."""
        return sum(label >= 0 for label in self.head_labels)

    def padded_centers(self) -> np.ndarray:
        """Return the centers as float32 (classes, most, width); a class with fewer repeats its first."""
        gallery = self.gallery
        starts = np.searchsorted(gallery.labels, np.arange(gallery.classes + 1))
        counts = np.diff(starts)
        columns = np.arange(counts.max())[None]
        return gallery.centers[starts[:-1, None] + np.where(columns < counts[:, None], columns, 0)]

    def log_probabilities(self, scores: np.ndarray, head_logits: np.ndarray) -> np.ndarray:
        """Return what `model.extended_classifier` gives, float32 (images, classes).

        Args:
            scores: of the gallery, float32 (images, classes).
            head_logits: of the base's head, up to a constant for each image, float32 (images, base classes).
        """
        logits = log_softmax(np.float32(self.scale) * scores)
        if self.old == "centers" or not self.old_classes:
            return logits
        columns = [label for label in self.head_labels if label >= 0]
        return divided_by_head(logits, head_logits[:, columns] / np.float32(self.head_temperature))

    def enroll(self, names: Sequence[str], images: Enrolled) -> "Extension":
        """Return the extension with new classes and images.

        Args:
            names: of new classes, appended in this order.
            images: labels are positions in `classes` and `names` together.
        """
        return replace(
            self,
            classes=(*self.classes, *names),
            head_labels=(*self.head_labels, *(-1 for _ in names)),
            enrolled=self.enrolled.joined(images),
        )

    def remove(self, names: Sequence[str]) -> "Extension":
        """Return the extension without some classes and their images."""
        removed = set(names)
        kept = np.array([name not in removed for name in self.classes])
        return replace(
            self,
            classes=tuple(name for name in self.classes if name not in removed),
            head_labels=tuple(label for label, is_kept in zip(self.head_labels, kept, strict=True) if is_kept),
            enrolled=self.enrolled.relabeled(np.where(kept, np.cumsum(kept) - 1, -1)),
        )

    def rename(self, names: dict[str, str]) -> "Extension":
        """Return the extension with other names, old to new, of some classes."""
        return replace(self, classes=tuple(names.get(name, name) for name in self.classes))


def write_extension(extension: Extension, file: Path) -> None:
    """Write the file atomically; equal extensions give equal bytes."""
    from safetensors.numpy import save

    arrays = {
        "mean": extension.whitening.mean,
        "matrix": extension.whitening.matrix,
        "base_centers": extension.base_gallery.centers,
        "base_center_labels": extension.base_gallery.labels,
        "enrolled": extension.enrolled.vectors,
        "enrolled_labels": extension.enrolled.labels,
        "head_labels": np.array(extension.head_labels, np.int32),
        "val_scores": extension.val_scores,
        "val_hidden": extension.val_hidden,
    }
    record = {
        "version": _VERSION,
        "base": extension.base,
        "base_sha256": extension.base_sha256,
        "base_classes": extension.base_classes,
        "classes": extension.classes,
        "enrolled_sha256": extension.enrolled.sha256,
        "old": extension.old,
        "scale": extension.scale,
        "head_temperature": extension.head_temperature,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with write_atomically(file, sync=True) as part:
        part.write_bytes(save(arrays, {"extension": json.dumps(record, ensure_ascii=False, sort_keys=True)}))


def read_extension(file: Path) -> Extension:
    """Return the extension of a file.

    Raises:
        DataError: it is missing, damaged, or of a later version.
    """
    from safetensors import safe_open

    try:
        with safe_open(file, "np") as opened:
            record: dict[str, Any] = json.loads(opened.metadata()["extension"])
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if record["version"] > _VERSION:
            raise DataError(
                f"{escape_controls(file)}: was written by a later version\nuse that version, or name another run"
            )
        return _extension(record, arrays)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{escape_controls(file)}: there is no such file\nrestore it, or name another run") from None
    except Exception as error:  # safetensors and JSON have their own classes
        reason = shorten(escape_controls(str(error).strip().splitlines()[0] if str(error).strip() else ""), 120)
        raise DataError(
            f"{escape_controls(file)}: is damaged ({reason or type(error).__name__})\nrestore it, or name another run"
        ) from None


def _extension(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> Extension:
    """Raises ValueError, KeyError or TypeError where values do not fit together."""
    enrolled = Enrolled(arrays["enrolled"], arrays["enrolled_labels"], tuple(record["enrolled_sha256"]))
    classes, head_labels = tuple(record["classes"]), tuple(arrays["head_labels"].tolist())
    width = len(arrays["mean"])
    widths = {array.shape[-1] for name, array in arrays.items() if name in ("matrix", "base_centers", "enrolled")}
    if len(classes) != len(head_labels) or widths != {width}:
        raise ValueError("its parts do not fit together")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("a value is NaN or infinite")
    labels = enrolled.labels
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(classes)):
        raise ValueError("an enrolled image has no class")
    if record["old"] not in ("head", "centers"):
        raise ValueError("unknown form of old classes")
    return Extension(
        base=str(record["base"]),
        base_sha256=str(record["base_sha256"]),
        base_classes=tuple(record["base_classes"]),
        classes=classes,
        head_labels=head_labels,
        whitening=Whitening(arrays["mean"], arrays["matrix"]),
        base_gallery=Gallery(arrays["base_centers"], arrays["base_center_labels"]),
        enrolled=enrolled,
        old=record["old"],
        scale=float(record["scale"]),
        head_temperature=float(record["head_temperature"]),
        val_scores=arrays["val_scores"],
        val_hidden=arrays["val_hidden"],
    )
