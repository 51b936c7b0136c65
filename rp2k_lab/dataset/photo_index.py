"""Every source becomes one table of usable photos: path, class, label, split, width, height, bytes."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset import folder, grocery_store
from rp2k_lab.dataset.image import WAY_OUT
from rp2k_lab.dataset.listing import Listing, read_listing
from rp2k_lab.dataset.relabel import relabel
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.splits import fold_parts, hold_out_val, in_fraction, select_classes

log = logging.getLogger(__name__)

DATA_FOLDER = PROJECT / "data"
_COLUMNS = ["path", "class", "label", "split", "width", "height", "bytes"]


@dataclass(frozen=True)
class Index:
    """A data set's photos.

    Attributes:
        root: the folder that `table.path` is relative to.
        table: one row a photo, columns path (posix), class, label (int, position in `classes`), split (train, val or
            test), width, height (pixels, upright), bytes.
        classes: class names; a label is a position in them.
        fingerprint: hash of every photo's path, split and size in bytes, and of the labels that `dataset.relabel`
            changed: the same for the same photos anywhere.
        version: of paths, splits, sizes and each file's time of change: another one whenever a file was touched.
        skipped: the photos that cannot be read, columns path, class, split, problem; empty but with
            `dataset.on_bad_image=skip`.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    fingerprint: str
    version: str
    skipped: pd.DataFrame

    def split(self, name: str) -> pd.DataFrame:
        """The rows of train, val or test, in the index's order; `row` is a photo's position in `table`."""
        return self.table[self.table["split"] == name].reset_index(names="row")

    def train_counts(self) -> np.ndarray:
        """Training images per class, int64 (classes,)."""
        return np.bincount(self.split("train")["label"], minlength=len(self.classes))


def build_index(dataset) -> Index:
    """The index of a `conf/dataset` choice; makes the shelf set if it is not there yet.

    Photos that cannot be read end the run, or are left out with `on_bad_image=skip` when all else has been decided, so
    that they change nothing else; to know them, `skip` decodes every photo once.

    Raises:
        RequestError: the root has another layout, the shelf's options contradict each other, no class is left, or the
            list of `dataset.relabel` does not fit.
        DataError: an empty class in train, a class name with a line break, a photo that cannot be read, a class that
            train lacks, no val photo; with `skip`, a class of train or a split of which no photo can be read.
    """
    skip = dataset.on_bad_image == "skip"
    listing = list_photos(dataset, decode=skip)
    if listing.not_photos:
        log.info(
            "%d files are no photos and left out: %s, …",
            len(listing.not_photos),
            escape_controls(listing.not_photos[0]),
        )
    table = select_classes(
        listing.table, dataset.min_images_per_class, dataset.catch_all_class if dataset.drop_catch_all else None
    )
    bad = table["problem"].notna()
    if bad.any() and not skip:
        raise DataError(_bad_photos(listing.root, table[bad]))
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    _check_classes(listing.root, table, classes)
    if dataset.fraction < 1:
        used = in_fraction(table, dataset.fraction, dataset.fraction_seed)
        table, bad = table[used], bad[used]
    if dataset.fold is not None:
        fold, folds = map(int, dataset.fold.split("/"))
        used = fold_parts(table, folds) != fold - 1
        table, bad = table[used], bad[used]
    table, skipped = table[~bad], table[bad]
    if len(skipped):
        first = f"{escape_controls(skipped['path'].iloc[0])}: {skipped['problem'].iloc[0]}"
        log.warning("%d of %d photos cannot be read and are skipped, the first %s", len(skipped), len(bad), first)
    if dataset.relabel is not None:  # last, so that the same photos are used with it and without
        table = table.assign(given=table["class"])
        table["class"] = relabel(table, listing.table, classes, dataset.relabel)
    index = index_of(listing.root, table, classes, skipped)
    _check_splits(index)
    return index


def index_of(root: Path, table: pd.DataFrame, classes: list[str], skipped: pd.DataFrame) -> Index:
    """The index of a listing's rows; a class that is not among `classes` has the label -1.

    Args:
        table: with a column `given`, the labels before `dataset.relabel`, where that was followed.
    """
    table = table.reset_index(drop=True)
    table["label"] = pd.Index(classes, dtype=object).get_indexer(table["class"]).astype("int32")
    skipped = skipped[["path", "class", "split", "problem"]].reset_index(drop=True)
    return Index(root, table[_COLUMNS], classes, *_fingerprints(table), skipped)


def list_photos(dataset, decode: bool) -> Listing:
    """Every photo of a `conf/dataset` choice, also those that cannot be read, with val held out of train.

    Args:
        decode: decode each photo once, which finds the truncated ones; else only headers are read.

    Raises:
        RequestError, DataError: nothing can be listed (`rp2k.scan`, `grocery_store.scan`).
    """
    root = _root(dataset)
    scan = grocery_store.scan if dataset.name == "grocery_store" else folder.scan
    listing = read_listing(root, *scan(root), DATA_FOLDER / "index", decode)
    if not (listing.table["split"] == "train").any():
        raise DataError(
            f"{escape_controls(root)}: train has no photo\n"
            "photos stand in train/<class>/ (dataset=rp2k) or in the lines of train.txt (dataset=grocery_store)"
        )
    if not (listing.table["split"] == "val").any():
        listing.table["split"] = hold_out_val(listing.table, dataset.val_fraction, dataset.val_seed)
    return listing


def _root(dataset) -> Path:
    if dataset.root is not None:
        return dataset.root
    options = ShelfOptions(**{key: getattr(dataset, key) for key in ShelfOptions.model_fields})
    try:
        return make_shelf(options, DATA_FOLDER)
    except ValueError as error:
        raise RequestError(f"dataset: {error}") from None


def _bad_photos(root: Path, bad: pd.DataFrame) -> str:
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{escape_controls(root / bad['path'].iloc[0])}: {bad['problem'].iloc[0]}{more}\n{WAY_OUT}"


def _check_classes(root: Path, table: pd.DataFrame, classes: list[str]) -> None:
    broken = [name for name in classes if "\n" in name or "\r" in name]
    if broken:
        raise DataError(
            f"{escape_controls(root)}: the class name {broken[0]!r} has a line break\n"
            "a list of classes has one name a line"
        )
    unknown = table[~table["class"].isin(classes)]
    if len(unknown):
        raise DataError(
            f"{escape_controls(root / unknown['path'].iloc[0])}: its class has no photo in train "
            f"({len(unknown)} such photos)\n"
            "give the class training photos or move its folder away"
        )


def _check_splits(index: Index) -> None:
    """What skipping photos may have emptied, and what was never there."""
    splits, root = set(index.table["split"]), escape_controls(index.root)
    for split in dict.fromkeys(index.skipped["split"]):
        if split not in splits:
            raise DataError(f"{root}: none of the photos of {split} can be read\n{WAY_OUT.split(';')[0]}")
    if "val" not in splits:
        raise DataError(f"{root}: no photo for val\nval is taken from classes with two or more photos; all have one")
    empty = np.flatnonzero(index.train_counts() == 0)
    if len(empty):
        raise DataError(
            f"{root}: no training photo of the class {escape_controls(index.classes[empty[0]])} can be read\n"
            "replace its photos, or leave small classes out with dataset.min_images_per_class"
        )


def _fingerprints(table: pd.DataFrame) -> tuple[str, str]:
    """(fingerprint, version), see `Index`."""
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
