"""The gate: what speaks against an image or a product that is about to be enrolled, as sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.analysis.photo_quality import MEASURES
from rp2k_lab.core.text import escape_controls
from rp2k_lab.enrollment.new_images import NewImages
from rp2k_lab.extension.extension_file import Extension
from rp2k_lab.extension.gallery import build_gallery, unit

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


def rivals(products: np.ndarray, extension: Extension, own: Sequence[int], count: int = 3) -> list[list[Rival]]:
    """Return the nearest listed products of some products, nearest first.

    Args:
        products: a whitened vector of each, float32 (products, width).
        own: their labels, which are left out; -1: not listed.
        count: rivals of each; fewer if there are fewer products.
    """
    scores = extension.gallery.scores(unit(products))
    found = []
    for row, label in zip(scores, own, strict=True):
        if label >= 0:
            row[label] = -np.inf
        nearest = np.argsort(-row, kind="stable")[: min(count, len(row) - (label >= 0))]
        found.append([Rival(int(rival), float(row[rival])) for rival in nearest])
    return found


def judge(
    images: NewImages, vectors: np.ndarray, quality: pd.DataFrame, extension: Extension, look_alike: float
) -> list[Finding]:
    """Return what speaks against the images and products.

    Args:
        vectors: whitened features of `images.table`, float32 (images, width).
        quality: `photo_quality.measure_images` of the same.
        extension: before the images are enrolled.
        look_alike: cosine with a listed product from which a new one may be the same: half of all val photos reach it.
    """
    findings = [
        Finding(name, path, f"cannot be read ({problem})")
        for path, name, problem in images.unreadable.itertuples(index=False)
    ]
    findings += [
        Finding(name, path, "is enrolled or a training image already")
        for path, name in images.repeated.itertuples(index=False)
    ]
    table, listed = images.table, extension.gallery
    labels = pd.Index(extension.classes, dtype=object).get_indexer(images.classes)  # -1: new
    product = pd.Index(images.classes, dtype=object).get_indexer(table["class"])
    rows = [np.flatnonzero(product == number) for number in range(len(images.classes))]
    new = np.flatnonzero(labels < 0)
    findings += _about_products({images.classes[each]: vectors[rows[each]] for each in new}, extension, look_alike)
    nearest = _nearest_others(vectors, product, images.classes, extension, labels)
    photos = table[["path", "width", "height"]].join(quality[list(MEASURES)].set_axis(table.index)).to_dict("records")
    for number, name in enumerate(images.classes):
        own = listed.centers[listed.labels == labels[number]]
        for position, row in enumerate(rows[number]):
            rest = np.concatenate([np.delete(vectors[rows[number]], position, axis=0), own])
            sentence = _about_sibling(rest, vectors[row], *nearest[row])
            texts = [sentence] if sentence else []
            findings += [Finding(name, photos[row]["path"], text) for text in texts + _about_quality(photos[row])]
    return findings


def _about_products(products: dict[str, np.ndarray], extension: Extension, look_alike: float) -> list[Finding]:
    """Return what speaks against new products, from name to the vectors of its images."""
    if not products:
        return []
    means = np.stack([vectors.mean(axis=0) for vectors in products.values()])
    nearest = rivals(means, extension, [-1] * len(means), 1)
    findings = []
    for (name, vectors), (rival,) in zip(products.items(), nearest, strict=True):
        if rival.cosine >= look_alike:
            listed = escape_controls(extension.classes[rival.label])
            findings.append(Finding(name, "", f"looks like {listed} (cosine {rival.cosine:.2f}): the same product?"))
        if len(vectors) == 1:
            findings.append(Finding(name, "", "has one photo: its accuracy cannot be estimated, add a second"))
    return findings


def _nearest_others(
    vectors: np.ndarray, product: np.ndarray, products: Sequence[str], extension: Extension, labels: np.ndarray
) -> list[tuple[str, float]]:
    """Return (name, cosine) of the product nearest to each image that is not the image's, listed or enrolled with it.

    Args:
        vectors: float32 (images, width).
        product: number of each image's product, int (images,), from 0 without gaps.
        products: their names.
        labels: of the products in the extension, int (products,); -1: new.
    """
    enrolled_now = build_gallery(vectors, product)
    scores = np.concatenate([extension.gallery.scores(vectors), enrolled_now.scores(vectors)], axis=1)
    rows, own = np.arange(len(vectors)), labels[product]
    scores[rows, len(extension.classes) + product] = -np.inf
    scores[rows[own >= 0], own[own >= 0]] = -np.inf
    nearest, names = scores.argmax(axis=1), [*extension.classes, *products]
    return [(names[each], float(scores[row, each])) for row, each in enumerate(nearest)]


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
    rows = np.flatnonzero(np.isin(labels, nearest))
    compared = extension.whitening(np.asarray(features[rows]))
    findings = []
    for label in np.unique(nearest):
        new, old = np.flatnonzero(nearest == label), np.flatnonzero(labels[rows] == label)
        cosines = vectors[new] @ compared[old].T
        best = cosines.argmax(axis=1)
        for each in np.flatnonzero(cosines.max(axis=1) >= NEAR_COPY):
            found, copy = images.table.iloc[int(new[each])], escape_controls(paths[int(rows[old[best[each]]])])
            findings.append(Finding(found["class"], found["path"], f"is nearly the same photo as {copy} of train"))
    return findings
