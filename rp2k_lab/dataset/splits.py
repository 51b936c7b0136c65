"""Choose the images that a run uses: classes, drawn test and val splits, a fraction or folds of train.

A column `group` names the track, shop or series of an image, "" for none.  Every draw keeps its members together, so
that no image of val or test has a sibling in train.
"""

import hashlib
import logging
import zlib

import numpy as np
import pandas as pd

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.options import OwnPhotos, Source

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


def complete_splits(table: pd.DataFrame, dataset: Source) -> pd.Series:
    """Return the split column with every image in train, val or test.

    An image without a split (null) joins the split that its group is given, else test is drawn from such images, unless
    it is given, and the rest is train.  Val is held out of train unless it is given.
    """
    if "group" not in table and not table["split"].isna().any():
        has_val = (table["split"] == "val").any()
        return table["split"] if has_val else hold_out_val(table, dataset.val_fraction, dataset.val_seed)
    split = table["split"].astype(object)
    if "group" in table:
        split = _with_group_splits(table.assign(split=split))
    free, given = split.isna(), set(split.dropna())
    if free.any() and isinstance(dataset, OwnPhotos) and dataset.test_fraction and "test" not in given:
        drawn = table.assign(split=split.fillna("train"))
        reserve = 1 if "val" in given else 2
        split[free & _draw(drawn, free.to_numpy(), dataset.test_fraction, dataset.test_seed, "test", reserve)] = "test"
    split = split.fillna("train").astype("str")
    if (split == "val").any():
        return split
    return hold_out_val(table.assign(split=split), dataset.val_fraction, dataset.val_seed)


def _with_group_splits(table: pd.DataFrame) -> pd.Series:
    """Return the split column where an image without a split has its group's; warn about divided groups."""
    given = table[table["split"].notna() & (table["group"] != "")]
    rank = given["split"].map({"train": 0, "val": 1, "test": 2})
    first = given.assign(rank=rank).sort_values("rank", kind="stable").drop_duplicates("group")
    split = table["split"].fillna(table["group"].map(first.set_index("group")["split"]))
    splits = given.groupby("group")["split"].unique()
    divided = splits[splits.map(len) > 1]
    if len(divided):
        first = f"{escape_controls(divided.index[0])} ({' and '.join(divided.iloc[0])})"
        log.warning("%d of %d groups are divided between splits, which makes accuracy look higher: %s, …",
                    len(divided), len(splits), first)  # fmt: skip
    return split


def hold_out_val(table: pd.DataFrame, fraction: float, seed: int) -> pd.Series:
    """Return the split column with a stratified, seeded part of train turned into val.

    Of a class with n >= 2 training images, round(fraction·n) go to val, at least one and not all; a single image stays
    in train.  The choice within a class depends on (seed, class name) alone, so that a new class changes no other.
    With groups see `_draw_groups`.
    """
    split = table["split"].to_numpy(object).copy()
    split[_draw(table, (split == "train"), fraction, seed, "val", 1)] = "val"
    return pd.Series(split, table.index)


def _draw(table: pd.DataFrame, free: np.ndarray, fraction: float, seed: int, split: str, reserve: int) -> np.ndarray:
    """Return which images of train to turn into another split, bool (rows,).

    Args:
        free: which images may be drawn, bool (rows,).
        split: the new split, for the log; test and val have separate random streams.
        reserve: images (with groups: groups) of each class that stay in train: 1, or 2 if val is drawn next.
    """
    if "group" in table:
        return _draw_groups(table, free, fraction, seed, split, reserve)
    drawn, stream, small = np.zeros(len(table), bool), () if split == "val" else (3,), 0
    for name, rows in _train_rows(table):
        candidates = rows[free[rows]]
        most = min(len(candidates), len(rows) - reserve)
        if most < 1:
            small += len(rows) <= reserve
            continue
        order = _rng(seed, name, *stream).permutation(len(candidates))
        drawn[candidates[order[: min(most, max(1, round(fraction * len(candidates))))]]] = True
    if small and reserve == 1:
        log.info("%d classes have a single photo: it stays in train, and %s lacks these classes", small, split)
    elif small:
        log.info("%d classes have one or two photos: %s lacks these classes", small, split)
    return drawn


def _draw_groups(
    table: pd.DataFrame, free: np.ndarray, fraction: float, seed: int, split: str, reserve: int
) -> np.ndarray:
    """Return which images of train to turn into another split: whole groups, as stratified as they allow.

    Groups come in an order that depends on (seed, name).  A group is drawn if that brings the classes closer to
    `fraction` of their images, summed over classes, and leaves each class an image in train.  Then each class without
    a drawn image gets the group that overshoots least, while less than twice `fraction` is drawn.
    """
    units = _Units(table, free, f"{split} {seed}")
    wanted = np.maximum(1, np.round(fraction * units.images)).astype(int)
    draw = _GroupDraw(units, np.where(units.of_class > reserve, wanted, 0).tolist())
    for unit in units.order:
        if draw.may_leave(unit) and draw.increase(unit) < 0:
            draw.take(unit)
    members: dict[int, list[int]] = {}
    for unit in units.order:
        for label, _ in units.cells[unit]:
            members.setdefault(label, []).append(unit)
    for label, its_units in members.items():
        if draw.target[label] and not draw.count[label]:
            best = min(filter(draw.may_leave, its_units), key=draw.increase, default=None)
            if best is not None and (not draw.images or draw.images + units.sizes[best] <= 2 * sum(draw.target)):
                draw.take(best)
    lacking = sum(not draw.count[label] for label in members)
    lacks = f"; {lacking} of {len(draw.count)} classes have too few or too large groups for it" if lacking else ""
    log.info("%s: %d photos in %d groups, %.1f %% of those it is drawn from%s",
             split, draw.images, sum(draw.drawn), 100 * draw.images / max(1, free.sum()), lacks)  # fmt: skip
    return np.array([*draw.drawn, False])[units.unit_of] & free


class _GroupDraw:
    """The state of a draw of groups.

    Args:
        units: the groups.
        target: images to draw of each class.

    Attributes:
        drawn: whether each unit is drawn.
        count: drawn images of each class.
        images: drawn images.
    """

    def __init__(self, units: "_Units", target: list[int]):
        self._units, self.target = units, target
        self.drawn, self.count, self.images = [False] * len(units.order), [0] * len(target), 0
        self._left = units.of_class.tolist()

    def may_leave(self, unit: int) -> bool:
        """Return whether a unit is in train and each of its classes has another one there."""
        return not self.drawn[unit] and all(self._left[label] > 1 for label, _ in self._units.cells[unit])

    def increase(self, unit: int) -> int:
        """Return by how many images drawing a unit would move the classes away from their targets."""
        missing = ((self.target[label] - self.count[label], images) for label, images in self._units.cells[unit])
        return sum(abs(rest - images) - abs(rest) for rest, images in missing)

    def take(self, unit: int) -> None:
        """Draw a unit."""
        self.drawn[unit], self.images = True, self.images + self._units.sizes[unit]
        for label, images in self._units.cells[unit]:
            self.count[label] += images
            self._left[label] -= 1


class _Units:
    """What a draw cannot divide: groups, and images without a group.

    Args:
        table: columns path, class, split, group.
        free: which images of train may be drawn, bool (rows,).
        key: of the random order.

    Attributes:
        unit_of: unit of each row, int64 (rows,); -1 for rows that are not free.
        cells: of each unit (class, its images), classes as positions.
        sizes: images of each unit.
        of_class: units of each class, plus one if train has images that are not free, int64 (classes,).
        images: free images of each class, int64 (classes,).
        order: the units in a random order that depends on the key and their names.
    """

    def __init__(self, table: pd.DataFrame, free: np.ndarray, key: str):
        group, paths = table["group"].to_numpy(object), table["path"].to_numpy(object)
        label, classes = pd.factorize(table["class"].to_numpy(object), sort=True)
        rows = np.flatnonzero(free)
        names = np.array([f"g{group[row]}" if group[row] else f"p{paths[row]}" for row in rows.tolist()], object)
        unit, units = pd.factorize(names, sort=True)
        self.unit_of = np.full(len(table), -1, np.int64)
        self.unit_of[rows] = unit
        self.cells: list[list[tuple[int, int]]] = [[] for _ in units]
        pairs, counts = np.unique(unit * max(1, len(classes)) + label[rows], return_counts=True)
        of_unit, of_class = np.divmod(pairs, max(1, len(classes)))
        for which, name, count in zip(of_unit.tolist(), of_class.tolist(), counts.tolist(), strict=True):
            self.cells[which].append((name, count))
        self.sizes = np.bincount(unit, minlength=len(units)).tolist()
        self.of_class = np.bincount(of_class, minlength=len(classes))
        self.of_class[np.unique(label[(table["split"] == "train").to_numpy() & ~free])] += 1
        self.images = np.bincount(label[rows], minlength=len(classes))
        digests = [hashlib.sha256(f"{key} {name}".encode()).digest() for name in units]
        self.order = sorted(range(len(units)), key=digests.__getitem__)


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
    A class's folds differ by at most one image; which of them are larger varies from class to class.  With groups see
    `_assign_group_folds`.
    """
    if "group" in table:
        return _assign_group_folds(table, folds)
    assigned = np.full(len(table), -1, np.int64)
    for name, rows in _train_rows(table):
        if len(rows) > 1:
            rng = _rng(0, name, 2)
            assigned[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return assigned


def _assign_group_folds(table: pd.DataFrame, folds: int) -> np.ndarray:
    """Return folds as `assign_folds` does, with each group in one fold, as stratified as the groups allow.

    The largest groups come first, each into the fold that has least of its classes.  A group that holds all images of a
    class is in no fold.
    """
    units = _Units(table, (table["split"] == "train").to_numpy(), "folds")
    # Of each class: its images in each fold as fractions, the folds that have one (or None: in no fold), units to come.
    fractions = [[0.0] * folds for _ in units.images]
    places: list[set[int | None]] = [set() for _ in units.images]
    left, total = units.of_class.tolist(), [0.0] * folds
    fold_of: list[int] = [-1] * (len(units.order) + 1)
    for unit in sorted(units.order, key=lambda unit: -units.sizes[unit]):
        cells = [(label, count / int(units.images[label])) for label, count in units.cells[unit]]
        for label, _ in cells:
            left[label] -= 1

        def is_possible(fold: int, cells: list[tuple[int, float]] = cells) -> bool:
            """Return whether each class of the unit has, or will have, an image outside of a fold."""
            return all(left[label] or places[label] - {fold} for label, _ in cells)

        def crowding(fold: int, cells: list[tuple[int, float]] = cells) -> tuple[float, float]:
            return sum(part * fractions[label][fold] for label, part in cells), total[fold]

        best = min(filter(is_possible, range(folds)), key=crowding, default=None)
        for label, part in cells:
            places[label].add(best)
            if best is not None:
                fractions[label][best] += part
                total[best] += part
        fold_of[unit] = -1 if best is None else best
    return np.array(fold_of)[units.unit_of]


def _train_rows(table: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
    """Return (class, positions in the table) of the classes of train, by name."""
    positions = np.flatnonzero((table["split"] == "train").to_numpy())
    codes, names = pd.factorize(table["class"].to_numpy(object)[positions], sort=True)
    by_class = np.split(positions[np.argsort(codes, kind="stable")], np.cumsum(np.bincount(codes))[:-1])
    return list(zip(names, by_class, strict=True)) if len(positions) else []


def _rng(seed: int, name: str, *stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *stream])
