"""The index of a data set: one table of its usable images with path, class, label, split, width, height and bytes."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset import folder, grocery_store
from rp2k_lab.dataset.image import UNREADABLE_HINT
from rp2k_lab.dataset.listing import Listing, read_listing
from rp2k_lab.dataset.relabel import relabel
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.splits import assign_folds, draw_fraction, hold_out_val, select_classes

log = logging.getLogger(__name__)

DATA_FOLDER = PROJECT / "data"
_COLUMNS = ["path", "class", "label", "split", "width", "height", "bytes"]


class DatasetOptions(Protocol):
    """The fields of a `conf/dataset` choice that this module reads (meanings: config/schema.py)."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> Path | None: ...
    @property
    def val_fraction(self) -> float: ...
    @property
    def val_seed(self) -> int: ...
    @property
    def catch_all_class(self) -> str | None: ...
    @property
    def drop_catch_all(self) -> bool: ...
    @property
    def min_images_per_class(self) -> int: ...
    @property
    def fraction(self) -> float: ...
    @property
    def fraction_seed(self) -> int: ...
    @property
    def fold(self) -> str | None: ...
    @property
    def relabel(self) -> Path | None: ...
    @property
    def on_bad_image(self) -> str: ...


@dataclass(frozen=True)
class Index:
    """A data set's images.

    Attributes:
        root: the folder that `table.path` is relative to.
        table: one row per image, columns path (posix), class, label (int, position in `classes`), split (train, val or
            test), width, height (pixels, upright), bytes.
        classes: class names; a label is a position in them.
        fingerprint: hash of every image's path, split and size in bytes, and of the labels that `dataset.relabel`
            changed; equal for equal images anywhere.
        version: hash of paths, splits, sizes and times of change; changes whenever a file was touched.
        skipped: unreadable images, columns path, class, split, problem; empty without `dataset.on_bad_image=skip`.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    fingerprint: str
    version: str
    skipped: pd.DataFrame

    def split(self, name: str) -> pd.DataFrame:
        """Return the rows of train, val or test, in the index's order; `row` is the position in `table`."""
        return self.table[self.table["split"] == name].reset_index(names="row")

    def train_counts(self) -> np.ndarray:
        """Return the training images per class, int64 (classes,)."""
        return np.bincount(self.split("train")["label"], minlength=len(self.classes))


def build_index(dataset: DatasetOptions) -> Index:
    """Build the index of a `conf/dataset` choice; draw the shelf set if it is missing.

    Unreadable images end the run.  With `on_bad_image=skip` every image is decoded once, and unreadable ones are left
    out after all other choices, so that they change nothing else.

    Raises:
        RequestError: the root has another layout, the shelf's options contradict each other, no class is left, or the
            list of `dataset.relabel` does not fit.
        DataError: an empty class in train, a class name with a line break, an unreadable image, a class that train
            lacks, no val image; with `skip`, a class of train or a split without a readable image.
    """
    skip = dataset.on_bad_image == "skip"
    listing = list_images(dataset, decode=skip)
    if listing.other_files:
        first = escape_controls(listing.other_files[0])
        log.info("%d files are no photos and left out: %s, …", len(listing.other_files), first)
    table = select_classes(
        listing.table, dataset.min_images_per_class, dataset.catch_all_class if dataset.drop_catch_all else None
    )
    bad = table["problem"].notna()
    if bad.any() and not skip:
        raise DataError(_unreadable_message(listing.root, table[bad]))
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    _check_classes(listing.root, table, classes)
    if dataset.fraction < 1:
        used = draw_fraction(table, dataset.fraction, dataset.fraction_seed)
        table, bad = table[used], bad[used]
    if dataset.fold is not None:
        fold, folds = map(int, dataset.fold.split("/"))
        used = assign_folds(table, folds) != fold - 1
        table, bad = table[used], bad[used]
    table, skipped = table[~bad], table[bad]
    if len(skipped):
        first = f"{escape_controls(skipped['path'].iloc[0])}: {skipped['problem'].iloc[0]}"
        log.warning("%d of %d photos cannot be read and are skipped, the first %s", len(skipped), len(bad), first)
    if dataset.relabel is not None:  # last, so that the same images are used with it and without
        table = table.assign(given=table["class"])
        table["class"] = relabel(table, listing.table, classes, dataset.relabel)
    index = make_index(listing.root, table, classes, skipped)
    _check_splits(index)
    return index


def make_index(root: Path, table: pd.DataFrame, classes: list[str], skipped: pd.DataFrame) -> Index:
    """Return the index of a listing's rows; a class outside of `classes` gets the label -1.

    Args:
        table: has a column `given`, the labels before `dataset.relabel`, if that was applied.
    """
    table = table.reset_index(drop=True)
    table["label"] = pd.Index(classes, dtype=object).get_indexer(table["class"]).astype("int32")
    skipped = skipped[["path", "class", "split", "problem"]].reset_index(drop=True)
    return Index(root, table[_COLUMNS], classes, *_fingerprints(table), skipped)


def list_images(dataset: DatasetOptions, decode: bool) -> Listing:
    """List all images of a `conf/dataset` choice, unreadable ones included, with val held out of train.

    Args:
        decode: decode each image once, which finds truncated ones; else only headers are read.

    Raises:
        RequestError, DataError: see `folder.scan` and `grocery_store.scan`.
    """
    root = _root(dataset)
    scan = grocery_store.scan if dataset.name == "grocery_store" else folder.scan
    listing = read_listing(root, *scan(root), DATA_FOLDER / "index", decode)
    if not (listing.table["split"] == "train").any():
        raise DataError(
            f"{escape_controls(root)}: train has no photo\n"
            "put photos into train/<class>/ (dataset=rp2k) or list them in train.txt (dataset=grocery_store)"
        )
    if not (listing.table["split"] == "val").any():
        listing.table["split"] = hold_out_val(listing.table, dataset.val_fraction, dataset.val_seed)
    return listing


def _root(dataset: DatasetOptions) -> Path:
    if dataset.root is not None:
        return dataset.root
    options = ShelfOptions(**{key: getattr(dataset, key) for key in ShelfOptions.model_fields})
    try:
        return make_shelf(options, DATA_FOLDER)
    except ValueError as error:
        raise RequestError(f"dataset: {error}") from None


def _unreadable_message(root: Path, bad: pd.DataFrame) -> str:
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{escape_controls(root / bad['path'].iloc[0])}: {bad['problem'].iloc[0]}{more}\n{UNREADABLE_HINT}"


def _check_classes(root: Path, table: pd.DataFrame, classes: list[str]) -> None:
    broken = [name for name in classes if "\n" in name or "\r" in name]
    if broken:
        raise DataError(
            f"{escape_controls(root)}: the class name {broken[0]!r} has a line break\n"
            "rename the class: lists of classes have one name per line"
        )
    unknown = table[~table["class"].isin(classes)]
    if len(unknown):
        raise DataError(
            f"{escape_controls(root / unknown['path'].iloc[0])}: its class has no photo in train "
            f"({len(unknown)} such photos)\n"
            "add training photos of the class, or move its folder away"
        )


def _check_splits(index: Index) -> None:
    """Raise DataError for an empty split or class."""
    splits, root = set(index.table["split"]), escape_controls(index.root)
    for split in dict.fromkeys(index.skipped["split"]):
        if split not in splits:
            raise DataError(
                f"{root}: none of the photos of {split} can be read\nlist all such photos with task=inspect"
            )
    if "val" not in splits:
        raise DataError(f"{root}: no photo for val, since every class has a single one\nadd photos, or a folder val")
    empty = np.flatnonzero(index.train_counts() == 0)
    if len(empty):
        raise DataError(
            f"{root}: no training photo of the class {escape_controls(index.classes[empty[0]])} can be read\n"
            "replace its photos, or leave out small classes with dataset.min_images_per_class"
        )


def _fingerprints(table: pd.DataFrame) -> tuple[str, str]:
    """Return (fingerprint, version), see `Index`."""
    digest = hashlib.sha256()
    for name in ("path", "split"):
        digest.update("\n".join(table[name].to_numpy(object)).encode())
    digest.update(table["bytes"].to_numpy(np.int64).tobytes())
    labeled = digest.copy()
    if "given" in table:
        changed = table[table["class"] != table["given"]]
        labeled.update("\n".join((changed["path"] + "\n" + changed["class"]).to_numpy(object)).encode())
    digest.update(table["changed"].to_numpy(np.int64).tobytes())
    return labeled.hexdigest()[:16], digest.hexdigest()[:16]
