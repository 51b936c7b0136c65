"""The gate: what speaks against an image or a product that is about to be enrolled, as sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.analysis.photo_quality import MEASURES
from rp2k_lab.core.text import escape_controls
from rp2k_lab.enrollment.new_images import NewImages
from rp2k_lab.extension.extension_file import Extension
from rp2k_lab.extension.gallery import Whitening, class_centers, unit

# Cosine of whitened features above which two photos are taken for nearly the same.
NEAR_COPY = 0.985
# Height / width outside of this range is rare: RP2K's lies within for 99.9 % of its products.
_SHAPES = (1 / 8, 12)
_SMALL_SIDE = 24  # pixels
_BLURRED = 0.1  # see `photo_quality.measure`


@dataclass(frozen=True)
class Finding:
    """A sentence about a product, or about one of its images.

    Attributes:
        product: class name.
        path: of the image; empty: the sentence is about the product.
        text: the sentence, without a full stop.
    """

    product: str
    path: str
    text: str


@dataclass(frozen=True)
class Rival:
    """A listed product near a new one.

    Attributes:
        label: its label in the extension.
        cosine: of the new product's mean vector with its nearest center.
    """

    label: int
    cosine: float


def rivals(product: np.ndarray, extension: Extension, own: int | None, count: int = 3) -> list[Rival]:
    """Return the nearest listed products of a new one, nearest first.

    Args:
        product: whitened vectors of its images, float32 (images, width).
        own: its own label, which is left out; None: it is not listed.
    """
    scores = extension.gallery.scores(unit(product.mean(axis=0, keepdims=True)))[0]
    if own is not None:
        scores[own] = -np.inf
    nearest = np.argsort(-scores, kind="stable")[: min(count, len(scores) - (own is not None))]
    return [Rival(int(label), float(scores[label])) for label in nearest]


def judge(
    images: NewImages, vectors: np.ndarray, quality: pd.DataFrame, extension: Extension, look_alike: float
) -> list[Finding]:
    """Return what speaks against the images and products.

    Args:
        vectors: whitened features of `images.table`, float32 (images, width).
        quality: `photo_quality.measure_images` of the same.
        extension: before the images are enrolled.
        look_alike: cosine with a listed product from which a new one may be the same: what half of its own val photos
            reach.
    """
    findings = [
        Finding(name, path, f"cannot be read ({problem})")
        for path, name, problem in images.unreadable.itertuples(index=False)
    ]
    findings += [
        Finding(name, path, "is enrolled or a training image already")
        for path, name in images.repeated.itertuples(index=False)
    ]
    table, classes = images.table, list(extension.classes)
    scores = extension.gallery.scores(vectors)
    by_class = {name: np.flatnonzero(table["class"] == name) for name in images.classes}
    centers = {name: class_centers(vectors[rows]) for name, rows in by_class.items()}
    for name, rows in by_class.items():
        own = classes.index(name) if name in classes else None
        if own is None:
            findings += _about_product(name, vectors[rows], extension, look_alike)
        others = {other: centers[other] for other in centers if other != name}
        for position, row in enumerate(rows):
            path = str(table["path"].iloc[row])
            rest = np.delete(vectors[rows], position, axis=0)
            if own is not None:
                rest = np.concatenate([rest, extension.gallery.centers[extension.gallery.labels == own]])
            nearest, cosine = _nearest_other(scores[row], classes, own, vectors[row], others)
            sentence = _about_sibling(rest, vectors[row], nearest, cosine)
            findings += [Finding(name, path, sentence)] if sentence else []
            measures = table.iloc[row][["width", "height"]].to_dict() | quality.iloc[row][list(MEASURES)].to_dict()
            findings += [Finding(name, path, text) for text in _about_quality(measures)]
    return findings


def _about_product(name: str, vectors: np.ndarray, extension: Extension, look_alike: float) -> list[Finding]:
    findings = []
    nearest = rivals(vectors, extension, None, 1)
    if nearest and nearest[0].cosine >= look_alike:
        rival = escape_controls(extension.classes[nearest[0].label])
        findings.append(Finding(name, "", f"looks like {rival} (cosine {nearest[0].cosine:.2f}): the same product?"))
    if len(vectors) == 1:
        findings.append(Finding(name, "", "has one photo: its accuracy cannot be estimated, add a second"))
    return findings


def _nearest_other(
    scores: np.ndarray, classes: Sequence[str], own: int | None, vector: np.ndarray, others: dict[str, np.ndarray]
) -> tuple[str, float]:
    """Return (name, cosine) of the product nearest to an image that is not its own."""
    listed = scores.copy()
    if own is not None:
        listed[own] = -np.inf
    best = int(listed.argmax())
    candidates = {classes[best]: float(listed[best])}
    candidates |= {name: float((centers @ vector).max()) for name, centers in others.items()}
    name = max(candidates, key=lambda each: candidates[each])
    return name, candidates[name]


def _about_sibling(rest: np.ndarray, vector: np.ndarray, nearest: str, cosine: float) -> str | None:
    """Return the sentence about an image beside its product's other images, or None."""
    if not len(rest):
        return None
    own = float((rest @ vector).max())
    if own >= NEAR_COPY:
        return f"is nearly the same photo as another of this product (cosine {own:.3f})"
    if cosine > own:
        cosines = f"cosine {cosine:.2f} against {own:.2f}"
        return f"is nearer to {escape_controls(nearest)} than to its own product ({cosines}): probably a wrong image"
    return None


def _about_quality(image: dict[str, float]) -> list[str]:
    width, height = int(image["width"]), int(image["height"])
    sentences = []
    if not _SHAPES[0] <= height / width <= _SHAPES[1]:
        sentences.append(f"has an extreme shape ({width} × {height} pixels)")
    if min(width, height) < _SMALL_SIDE:
        sentences.append(f"is small ({width} × {height} pixels)")
    if image["sharpness"] < _BLURRED:
        sentences.append(f"is blurred (sharpness {image['sharpness']:.2f})")
    return sentences


def base_near_copies(
    images: NewImages,
    vectors: np.ndarray,
    extension: Extension,
    train: tuple[np.ndarray, np.ndarray, Sequence[str]],
) -> list[Finding]:
    """Return the images that are nearly the same photo as a training image of the base.

    Only the training images of each image's nearest base product are compared.

    Args:
        train: features, float32 (images, width), labels in the base, int (images,), and paths of its training images.
    """
    features, labels, paths = train
    nearest = extension.base_gallery.scores(vectors).argmax(axis=1)
    findings = []
    for label in np.unique(nearest):
        new, rows = np.flatnonzero(nearest == label), np.flatnonzero(labels == label)
        cosines = vectors[new] @ _whitened(extension.whitening, features, rows).T
        best = cosines.argmax(axis=1)
        for each in np.flatnonzero(cosines.max(axis=1) >= NEAR_COPY):
            found, copy = images.table.iloc[int(new[each])], escape_controls(paths[int(rows[best[each]])])
            findings.append(Finding(found["class"], found["path"], f"is nearly the same photo as {copy} of train"))
    return findings


def _whitened(whitening: Whitening, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return whitening(np.asarray(features[rows]))
