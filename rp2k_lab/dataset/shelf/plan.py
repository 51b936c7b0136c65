"""Plan every image before any is drawn: the table that becomes truth.parquet."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from rp2k_lab.dataset.shelf.catalog import FLAVORS, Catalog, build_catalog, look_alikes
from rp2k_lab.dataset.shelf.distributions import image_counts, ratio_at, ratio_bands
from rp2k_lab.dataset.shelf.drawing import HEIGHT, WIDTH
from rp2k_lab.dataset.shelf.options import ShelfOptions

SPLITS = ("train", "val", "test")
NUISANCES = ("angle", "blur", "reflection", "brightness", "color_cast", "neighbor")
TRUTH_COLUMNS = (
    "path", "split", "given_class", "true_class", "label_error", "brand", "flavor", "size", "pack", "ratio",
    "width", "height", *NUISANCES, "jpeg_quality", "duplicate_of", "duplicate_kind", "draw_key", "near_key",
)  # fmt: skip
# Last entry of a random stream's key; the entries before it are seed, split and class.
_UNIFORM, _KEYS = 0, 1
_PACKS = np.array([2, 4, 6])
# A present nuisance has at least this strength, so that it can be seen.
_LEAST_STRENGTH = 0.35
_UPPER_CASE_FRACTION = 0.03
# Columns of an image's content, shared with its near copies.  Exact copies share the encoding, too.
_CONTENT = ["class", "brand", "flavor", "size", "pack", "exact_ratio", *NUISANCES, "draw_key"]
_ENCODING = ["width", "height", "jpeg_quality"]


def plan(options: ShelfOptions) -> pd.DataFrame:
    """Return the ground truth, one row per image, columns TRUTH_COLUMNS.

    Until copies are planted, the content of image n of a class and split depends on (seed, split, class, n) alone, not
    on the counts, but for its ratio (`ratio_bands`).

    Raises:
        ValueError: the options contradict each other.
    """
    catalog = build_catalog(options)
    counts = image_counts(options)
    bands = ratio_bands(catalog, counts["train"], options)
    parts = [
        _class_images(options, catalog, split, index, int(number), bands[index])
        for split, numbers in counts.items()
        for index, number in enumerate(numbers)
    ]
    table = pd.DataFrame({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    _plant_copies(table, options)
    names = np.array([product_class.name for product_class in catalog.classes], object)
    table["true_class"] = names[table["class"]]
    table["given_class"] = names[_given_labels(table, options, catalog)]
    table["label_error"] = table["given_class"] != table["true_class"]
    table["ratio"] = table["height"] / table["width"]
    table["path"] = _paths(table, options.seed)
    originals = table["original"].to_numpy()
    table["duplicate_of"] = np.where(originals >= 0, table["path"].to_numpy(object)[originals], None)
    return table[list(TRUTH_COLUMNS)]


def _class_images(
    options: ShelfOptions, catalog: Catalog, split: str, index: int, number: int, band: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the columns of all images of a class in a split."""
    key = [options.seed, SPLITS.index(split), index]
    # Filled row by row, so that the first rows do not depend on the number of rows.
    u = iter(np.random.default_rng([*key, _UNIFORM]).random((number, 8 + 2 * len(NUISANCES))).T)
    keys = np.random.default_rng([*key, _KEYS]).integers(2**63, size=(number, 2))
    product_class = catalog.classes[index]
    ratio = ratio_at(band[0] + next(u) * (band[1] - band[0]))
    height, width = _pixels(ratio, next(u), options)
    multipack = product_class.multipack & (next(u) < options.multipack_image_fraction)
    pack = np.where(multipack, _PACKS[(next(u) * len(_PACKS)).astype(int)], 1)
    is_png = next(u) < options.png_fraction
    jpeg_quality = np.where(is_png, 0, _integer_in(options.jpeg_quality, next(u)))
    brand, flavor = _identity(catalog, index, next(u), next(u))
    strengths = {}
    for nuisance in NUISANCES:
        present = next(u) < getattr(options, f"{nuisance}_fraction")
        strengths[nuisance] = np.where(present, _LEAST_STRENGTH + (1 - _LEAST_STRENGTH) * next(u), 0.0)
    constant = {"split": split, "class": index, "size": product_class.size, "near_key": 0, "original": -1}
    return {
        **{name: np.full(number, value) for name, value in constant.items()},
        "number": np.arange(number), "duplicate_kind": np.full(number, None, object), "exact_ratio": ratio,
        "height": height, "width": width, "pack": pack, "jpeg_quality": jpeg_quality, "brand": brand,
        "flavor": flavor, **strengths, "draw_key": keys[:, 0], "file_key": keys[:, 1],
    }  # fmt: skip


def _integer_in(bounds: tuple[int, int], u: np.ndarray) -> np.ndarray:
    """Return uniform integers in the closed range, from uniform variates."""
    return bounds[0] + (u * (bounds[1] - bounds[0] + 1)).astype(np.int64)


def _pixels(ratio: np.ndarray, u: np.ndarray, options: ShelfOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return height and width: `options.side_px` pixels per canvas width, and one axis stretched to the ratio.

    Stretched, never shrunk, so that a crop resized to a square is not coarser along one axis, which would reveal its
    ratio.
    """
    side = _integer_in(options.side_px, u)
    canvas_ratio = HEIGHT / WIDTH
    height = np.round(side * np.maximum(ratio, canvas_ratio)).astype(np.int64)
    return height, np.round(side * np.maximum(1, canvas_ratio / ratio)).astype(np.int64)


def _identity(catalog: Catalog, index: int, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return brand and flavor names: the class's, or for `others` any flavor of any brand outside the catalog."""
    product_class = catalog.classes[index]
    if product_class.brand is None or product_class.flavor is None:
        brands, flavors = [brand.name for brand in catalog.foreign_brands], [flavor.name for flavor in FLAVORS]
    else:
        brands, flavors = [product_class.brand.name], [product_class.flavor.name]
    return _pick(brands, u), _pick(flavors, v)


def _pick(names: list[str], u: np.ndarray) -> np.ndarray:
    """Return names, each equally often, from uniform variates."""
    return np.array(names, object)[(u * len(names)).astype(int)]


def _plant_copies(table: pd.DataFrame, options: ShelfOptions) -> None:
    """Turn images of train and test, in place, into copies of train images of the same class."""
    rng = np.random.default_rng([options.seed, 201])
    split, class_index = table["split"].to_numpy(), table["class"].to_numpy()
    in_train = np.flatnonzero(split == "train")
    # Each class keeps its first train image as an original.
    spare = in_train[table["number"].to_numpy()[in_train] > 0]
    kinds, targets = [], []
    for name, images, pool in (
        ("duplicates", options.train_images, spare), ("leaks", options.test_images, np.flatnonzero(split == "test")),
    ):  # fmt: skip
        numbers = {kind: round(getattr(options, f"{kind}_{name}") * images) for kind in ("exact", "near")}
        copies = sum(numbers.values())
        if copies > len(pool):
            raise ValueError(
                f"exact_{name} + near_{name}: {copies} copies, but only {len(pool)} images can be one\n"
                "use smaller fractions"
            )
        kinds += [kind for kind, number in numbers.items() for _ in range(number)]
        targets += rng.permutation(pool)[:copies].tolist()
    originals = np.setdiff1d(in_train, targets)
    by_class = {index: originals[class_index[originals] == index] for index in np.unique(class_index[targets])}
    sources = np.array([rng.choice(by_class[class_index[target]]) for target in targets], np.int64)
    targets, near = np.array(targets, np.int64), np.array(kinds) == "near"
    for column in _CONTENT + _ENCODING:
        copied = slice(None) if column in _CONTENT else ~near
        table.loc[targets[copied], column] = table[column].to_numpy()[sources[copied]]
    table.loc[targets, "original"] = sources
    table.loc[targets, "duplicate_kind"] = kinds
    near_targets = targets[near]
    table.loc[near_targets, "near_key"] = table["file_key"].to_numpy()[near_targets]
    side = np.random.default_rng([options.seed, 202]).random(len(near_targets))
    height, width = _pixels(table["exact_ratio"].to_numpy()[near_targets], side, options)
    table.loc[near_targets, "height"], table.loc[near_targets, "width"] = height, width


def _given_labels(table: pd.DataFrame, options: ShelfOptions, catalog: Catalog) -> np.ndarray:
    """Return the class index (int64) that labels each image: wrong for exactly `options.label_noise` of the images.

    The first image of each class and split keeps its label, so that no class becomes empty.
    """
    given = table["class"].to_numpy().copy()
    if not options.label_noise:
        return given
    similar = look_alikes(catalog)
    has_similar = np.array([len(indices) > 0 for indices in similar])
    for split in sorted(set(options.noisy_splits), key=SPLITS.index):
        rng = np.random.default_rng([options.seed, 203, SPLITS.index(split)])
        rows = rng.permutation(np.flatnonzero((table["split"] == split) & (table["number"] > 0)))
        errors = round(options.label_noise * (table["split"] == split).sum())
        look_alike_rows = rows[has_similar[given[rows]]][: round(errors * options.look_alike_noise_fraction)]
        other_rows = rows[~np.isin(rows, look_alike_rows)][: errors - len(look_alike_rows)]
        if len(other_rows) + len(look_alike_rows) < errors:
            raise ValueError(
                f"label_noise={options.label_noise}: {split} has too few images, since one per class stays right\n"
                "use a smaller label_noise, or more images"
            )
        for row in look_alike_rows:
            given[row] = rng.choice(similar[given[row]])
        # A step of 1 to classes - 1 from the true class reaches every other class and never itself.
        steps = rng.integers(1, options.classes, size=len(other_rows))
        given[other_rows] = (given[other_rows] + steps) % options.classes
    return given


def _paths(table: pd.DataFrame, seed: int) -> list[str]:
    """Return each image's path below the set's folder.  File names do not depend on the true class."""
    is_png = table["jpeg_quality"].to_numpy() == 0
    stems = np.array([f"{key:016x}" for key in table["file_key"]], object)
    stems[is_png] = _screenshot_stems(int(is_png.sum()), seed)
    upper = np.random.default_rng([seed, 204]).random(len(table)) < _UPPER_CASE_FRACTION
    suffixes = np.where(is_png, np.where(upper, ".PNG", ".png"), np.where(upper, ".JPG", ".jpg"))
    columns = zip(table["split"], table["given_class"], stems, suffixes, strict=True)
    return [f"{split}/{given}/{stem}{suffix}" for split, given, stem, suffix in columns]


def _screenshot_stems(number: int, seed: int) -> list[str]:
    """Return distinct names in macOS's style of screenshots, `截屏2019-12-09下午7.49.21`, at seconds of 2019."""
    year_s = 365 * 86_400
    # The factor is coprime to a year's seconds: no second repeats before all have come.
    seconds = (np.arange(number) * 10_000_019 + seed) % year_s
    stems = []
    for second in seconds.tolist():
        time = datetime(2019, 1, 1) + timedelta(seconds=second)
        half = "上午" if time.hour < 12 else "下午"
        stems.append(f"截屏{time:%Y-%m-%d}{half}{(time.hour - 1) % 12 + 1}{time:.%M.%S}")
    return stems
