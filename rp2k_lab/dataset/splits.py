"""Choose the images that a run uses: classes, a val split held out of train, a fraction or folds of train."""

import logging
import zlib

import numpy as np
import pandas as pd

from rp2k_lab.core.errors import RequestError

log = logging.getLogger(__name__)


def select_classes(table: pd.DataFrame, min_images: int, dropped_class: str | None) -> pd.DataFrame:
    """Return the images, of all splits, of the classes with at least `min_images` in train, without `dropped_class`.

    Raises:
        RequestError: there is no `dropped_class`, or no class is left.
    """
    if dropped_class is None and min_images == 1:
        return table
    counts = table.loc[table["split"] == "train", "class"].value_counts()
    if dropped_class is not None and dropped_class not in counts:
        raise RequestError(
            f"dataset.drop_catch_all: the data set has no class {dropped_class}\n"
            "set dataset.catch_all_class to the class's name"
        )
    kept = counts[(counts >= min_images) & (counts.index != dropped_class)].index
    if kept.empty:
        raise RequestError(
            f"dataset.min_images_per_class={min_images}: no class is that large\n"
            f"use {counts.max()} (the largest class) or less"
        )
    if len(kept) < len(counts):
        log.info("dataset.min_images_per_class and drop_catch_all leave out %d of %d classes",
                 len(counts) - len(kept), len(counts))  # fmt: skip
        table = table[table["class"].isin(kept) | ~table["class"].isin(counts.index)].reset_index(drop=True)
    return table


def hold_out_val(table: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Return the split column with a stratified, seeded part of train turned into val.

    Of a class with n >= 2 training images, round(fraction·n) go to val, at least one and not all; a single image stays
    in train.  The choice within a class depends on (seed, class name) alone, so that a new class changes no other.
    """
    split = table["split"].to_numpy(object).copy()
    single = 0
    for name, rows in _train_rows(table):
        if len(rows) < 2:
            single += 1
            continue
        order = _rng(seed, name).permutation(len(rows))
        split[rows[order[: min(len(rows) - 1, max(1, round(fraction * len(rows))))]]] = "val"
    if single:
        log.info("%d classes have a single photo: it stays in train, and val lacks these classes", single)
    return pd.Series(split, table.index)


def draw_fraction(table: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Return which images to use, bool (rows,): `fraction` of each class's train, and all of val and test.

    At least one of each class.  Nested: with the same seed, a larger fraction includes the images of a smaller one.
    """
    used = np.ones(len(table), bool)
    for name, rows in _train_rows(table):
        order = _rng(seed, name, 1).permutation(len(rows))
        used[rows[order[max(1, round(fraction * len(rows))) :]]] = False
    return used


def assign_folds(table: pd.DataFrame, folds: int) -> np.ndarray:
    """Return the stratified fold (0 to folds - 1) of each training image, int64 (rows,); -1: in no fold.

    Images of val and test are in no fold, nor is the only image of a class, which could not be learned without it.
    A class's folds differ by at most one image; which of them are larger varies from class to class.
    """
    assigned = np.full(len(table), -1, np.int64)
    for name, rows in _train_rows(table):
        if len(rows) > 1:
            rng = _rng(0, name, 2)
            assigned[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return assigned


def _train_rows(table: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Return (class, positions in the table) of the classes of train, by name."""
    positions = np.flatnonzero((table["split"] == "train").to_numpy())
    codes, names = pd.factorize(table["class"].to_numpy(object)[positions], sort=True)
    by_class = np.split(positions[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    return list(zip(names, by_class, strict=True)) if len(positions) else []


def _rng(seed: int, name: str, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *stream])
