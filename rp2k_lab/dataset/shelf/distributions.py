"""RP2K's published statistics: the long tail of its classes and the height/width ratio of its images.

Source of both: the GiantPandaCV entry to CCF BDCI 2021 (docs/published.md).
"""

import numpy as np

from rp2k_lab.dataset.shelf.catalog import Brand, Catalog
from rp2k_lab.dataset.shelf.options import ShelfOptions

# Train images per bin of 0.5 in height/width, from 0 to 5.
RATIO_COUNTS = np.array([6038, 34883, 34232, 53289, 51898, 70720, 57306, 31690, 3802, 475])
RATIO_BINS = np.arange(0.0, 5.5, 0.5)
# The first bin starts at 0.3, where the canvas's ratio of 2.25 is already stretched sevenfold.
_RATIO_EDGES = np.r_[0.3, RATIO_BINS[1:]]
_RATIO_CUMULATIVE = np.r_[0.0, np.cumsum(RATIO_COUNTS)] / RATIO_COUNTS.sum()

# Test images of the class at a quantile, from the largest; 0.5 stands for the published minimum of 0,
# which has no logarithm.  `others` (1068) is left out: its fraction is an option.
_TAIL_QUANTILES = np.array([0.001, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0])
_TAIL_IMAGES = np.array([395, 170, 69, 41, 15, 5, 2, 1, 0.5])

# Quantiles left out on each side of a border between two sizes: about 3 % in ratio each, more than the error of
# rounding to whole pixels.
_BAND_GAP = 0.03


def ratio_at(quantile: np.ndarray) -> np.ndarray:
    """Return height/width (0.3 to 5) at quantiles (0 to 1) of the published histogram, uniform within a bin."""
    return np.interp(quantile, _RATIO_CUMULATIVE, _RATIO_EDGES)


def long_tail(classes: int, total: int, minimum: int) -> np.ndarray:
    """Return images per class (int64, falling): RP2K's long tail scaled to `total`, none below `minimum`.

    The scale s solves sum(max(minimum, s * published)) = total; the remainder of rounding down goes to the largest
    fractions, which keeps the order.  Needs classes * minimum <= total.
    """
    quantiles = (np.arange(classes) + 0.5) / max(classes, 1)
    weights = np.exp(np.interp(np.log(quantiles), np.log(_TAIL_QUANTILES), np.log(_TAIL_IMAGES)))
    low, high = 0.0, total / weights.min()
    for _ in range(100):
        scale = (low + high) / 2
        low, high = (scale, high) if np.maximum(minimum, scale * weights).sum() < total else (low, scale)
    exact = np.maximum(minimum, low * weights)
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def image_counts(options: ShelfOptions) -> dict[str, np.ndarray]:
    """Return images per class (int64, in the catalog's order) for each split in the options.

    Raises:
        ValueError: the minimum per class needs more images than a split has.
    """
    counts = {}
    for split in ("train", "val", "test"):
        total, minimum = getattr(options, f"{split}_images"), options.least_images(split)
        if not total:
            continue
        if options.classes * minimum > total:
            raise ValueError(
                f"{split}_images={total} is too few for classes={options.classes} with min_{split}_images={minimum}\n"
                f"use {split}_images={options.classes * minimum} or more"
            )
        others = options.others_fraction > 0
        products = options.classes - others
        others_images = max(minimum, round(options.others_fraction * total)) if others else 0
        others_images = min(others_images, total - products * minimum)
        counts[split] = np.r_[long_tail(products, total - others_images, minimum), [others_images] * others]
    return counts


def ratio_bands(catalog: Catalog, train_counts: np.ndarray, options: ShelfOptions) -> np.ndarray:
    """Return the band of quantiles (float64, classes × 2) of the published ratios from which each class draws.

    A product (or all of a brand: `options.shape_of`) has one shape: its band is `options.ratio_spread` wide, and the
    bands of all products together follow the published histogram, but for the few products with many images.  With a
    spread of 1, and for `others`, it is the whole histogram.  Sizes of a product divide the histogram in their order,
    as widely as they are frequent, with a small gap; each has its band in its part.
    """
    parts = _size_parts(catalog, train_counts)
    low, room = parts[:, 0], parts[:, 1] - parts[:, 0]
    named = np.array([product_class.brand is not None for product_class in catalog.classes])
    width = np.where(named, np.minimum(options.ratio_spread, room), room)
    start = low + np.clip(_centers(catalog, train_counts, options) * room - width / 2, 0, room - width)
    return np.stack([start, start + width], axis=1)


def _size_parts(catalog: Catalog, train_counts: np.ndarray) -> np.ndarray:
    """Return the part of the histogram, as quantiles, that each class may draw from: (0, 1) outside of size groups."""
    parts = np.tile([0.0, 1.0], (len(catalog.classes), 1))
    groups: dict[int, list[int]] = {}
    for index, product_class in enumerate(catalog.classes):
        if product_class.size:
            groups.setdefault(product_class.product, []).append(index)
    for members in groups.values():
        members = sorted(members, key=lambda index: catalog.classes[index].size)
        fraction = train_counts[members] / train_counts[members].sum()
        # A rare size keeps at least half the width of an even division.
        fraction = np.maximum(fraction, 0.5 / len(members))
        borders = np.r_[0.0, np.cumsum(fraction / fraction.sum())]
        parts[members, 0] = borders[:-1] + _BAND_GAP * (borders[:-1] > 0)
        parts[members, 1] = borders[1:] - _BAND_GAP * (np.arange(len(members)) < len(members) - 1)
    return parts


def _centers(catalog: Catalog, train_counts: np.ndarray, options: ShelfOptions) -> np.ndarray:
    """Return each class's center (0 to 1) in its part: shapes in random order, each as wide as it is frequent."""
    first: dict[Brand | int | None, int] = {}
    shapes = np.array(
        [
            first.setdefault(product_class.brand if options.shape_of == "brand" else product_class.product, len(first))
            for product_class in catalog.classes
        ]
    )
    named = np.array([product_class.brand is not None for product_class in catalog.classes])
    images = np.bincount(shapes, train_counts * named)
    order = np.random.default_rng([options.seed, 105]).permutation(len(images))
    ends = np.cumsum(images[order])
    centers = np.empty(len(images))
    centers[order] = (ends - images[order] / 2) / ends[-1]
    return centers[shapes]
