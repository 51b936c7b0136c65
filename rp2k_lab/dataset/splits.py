"""Which photos of a data set a run uses: val taken out of train, and the part or the fold of it that was asked for."""

import logging
import zlib

import numpy as np
import pandas as pd

from rp2k_lab.core.errors import RequestError

log = logging.getLogger(__name__)


def select_classes(table: pd.DataFrame, min_images: int, left_out: str | None) -> pd.DataFrame:
    """The photos, of every split, of classes with at least `min_images` in train and another name than `left_out`.

    Raises:
        RequestError: there is no class `left_out`, or no class is left.
    """
    if left_out is None and min_images == 1:
        return table
    counts = table.loc[table["split"] == "train", "class"].value_counts()
    if left_out is not None and left_out not in counts:
        raise RequestError(
            f"dataset.drop_catch_all: the data set has no class {left_out}\nname it by dataset.catch_all_class"
        )
    wanted = counts[(counts >= min_images) & (counts.index != left_out)].index
    if wanted.empty:
        raise RequestError(
            f"dataset.min_images_per_class={min_images}: no class has so many\nthe largest has {counts.max()}"
        )
    if len(wanted) < len(counts):
        log.info("%d of %d classes are left out by dataset.min_images_per_class and drop_catch_all",
                 len(counts) - len(wanted), len(counts))  # fmt: skip
        table = table[table["class"].isin(wanted) | ~table["class"].isin(counts.index)].reset_index(drop=True)
    return table


def hold_out_val(table: pd.DataFrame, share: float, seed: int) -> pd.Series:
    """The split column with a stratified, seeded part of train turned into val.

    Of a class with n >= 2 training photos, round(share·n) go to val, at least one and not all; a class with a single
    one keeps it in train.  The choice within a class depends on (seed, class name) alone, so that a class added later
    changes no other.
    """
    split = table["split"].to_numpy(object).copy()
    single = 0
    for name, rows in _train_rows(table):
        if len(rows) < 2:
            single += 1
            continue
        order = _rng(seed, name).permutation(len(rows))
        split[rows[order[: min(len(rows) - 1, max(1, round(share * len(rows))))]]] = "val"
    if single:
        log.info("%d classes have a single image: it stays in train, val lacks them", single)
    return pd.Series(split, table.index)


def in_fraction(table: pd.DataFrame, fraction: float, seed: int) -> np.ndarray:
    """Which photos a run on a part of the data uses, bool (rows,): `fraction` of each class's train, all of the rest.

    At least one of each class.  Nested: with the same seed, the photos of a smaller fraction are among a larger one's.
    """
    used = np.ones(len(table), bool)
    for name, rows in _train_rows(table):
        order = _rng(seed, name, 1).permutation(len(rows))
        used[rows[order[max(1, round(fraction * len(rows))) :]]] = False
    return used


def fold_parts(table: pd.DataFrame, folds: int) -> np.ndarray:
    """Which of the stratified parts (0 to folds - 1) each training photo is in, int64 (rows,); -1: in none.

    In none are the photos of val and test, and the only one of its class: without it the class could not be learned.
    A class's parts differ by at most one photo, and which of them are the larger ones varies from class to class.
    """
    parts = np.full(len(table), -1, np.int64)
    for name, rows in _train_rows(table):
        if len(rows) > 1:
            rng = _rng(0, name, 2)
            parts[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return parts


def _train_rows(table: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """(class, positions in the table) of the classes of train, by name."""
    positions = np.flatnonzero((table["split"] == "train").to_numpy())
    codes, names = pd.factorize(table["class"].to_numpy(object)[positions], sort=True)
    by_class = np.split(positions[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    return list(zip(names, by_class, strict=True)) if len(positions) else []


def _rng(seed: int, name: str, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *stream])
