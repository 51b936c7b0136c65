"""The index of a data set: one table of its usable images with path, class, label, split, width, height and bytes."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab import PROJECT
from rp2k_lab.core.csv_files import column_key
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.progress import activity
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.class_names import look_alike, look_alikes, spelled_out
from rp2k_lab.dataset.image import hint_of
from rp2k_lab.dataset.listing import MISSING, Listing, read_listing
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.relabel import relabel
from rp2k_lab.dataset.splits import assign_folds, complete_splits, draw_fraction, select_classes

log = logging.getLogger(__name__)

DATA_FOLDER = PROJECT / "data"
_COLUMNS = ["path", "class", "label", "split", "width", "height", "bytes"]


@dataclass(frozen=True)
class Index:
    """A data set's images.

    Attributes:
        root: the folder that `table.path` is relative to.
        table: one row per image, columns path (posix; of a crop, see `rp2k_lab.dataset.crops`), class, label (int,
            position in `classes`), split (train, val or test), width, height (pixels, upright), bytes (of the file);
            group ("": none), if the data set has groups.
        classes: class names; a label is a position in them.
        fingerprint: hash of every image's path, split and size in bytes, and of the labels that the path does not
            decide or that `dataset.relabel` changed; equal for equal images anywhere.
        version: hash of paths, splits, sizes and times of change; changes whenever a file was touched.
        skipped: unreadable images, columns path, class, split, problem; empty without `dataset.on_bad_image=skip`.
        long_tail_limits: see `Source`.
        coarse_classes: see `Scan`.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    fingerprint: str
    version: str
    skipped: pd.DataFrame
    long_tail_limits: tuple[int, int] | None = None
    coarse_classes: Mapping[str, str] | None = None

    def split(self, name: str) -> pd.DataFrame:
        """Return the rows of train, val or test, in the index's order; `row` is the position in `table`."""
        return self.table[self.table["split"] == name].reset_index(names="row")

    def train_counts(self) -> np.ndarray:
        """Return the training images per class, int64 (classes,)."""
        return np.bincount(self.split("train")["label"], minlength=len(self.classes))

    def class_groups(self) -> tuple[np.ndarray, str]:
        """Return each class's group, str (classes,) of head, medium, tail, and a text with the limits between them."""
        return class_groups(self.train_counts(), self.long_tail_limits)


@activity("reading the data set")
def build_index(dataset: Source, with_unlisted: bool = False) -> Index:
    """Build the index of a data set.

    Unreadable images end the run.  With `on_bad_image=skip` every image is decoded once, and unreadable ones are left
    out after all other choices, so that they change nothing else.

    Args:
        with_unlisted: classes that train lacks follow its classes instead of being refused.

    Raises:
        RequestError: from `Source.scan`, no class is left, or the list of `dataset.relabel` does not fit.
        DataError: from `Source.scan`, a class name with a line break, an unreadable image, a class that train lacks, no
            val image; with `skip`, a class of train or a split without a readable image.
    """
    skip = dataset.on_bad_image == "skip"
    listing = list_images(dataset, decode=skip)
    listing.log_unused()
    table = select_classes(
        listing.table, dataset.min_images_per_class, dataset.catch_all_class if dataset.drop_catch_all else None
    )
    bad = table["problem"].notna()
    if bad.any() and not skip:
        raise DataError(_unreadable_message(listing, table[bad]))
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    unlisted = sorted(set(table["class"]) - set(classes)) if with_unlisted else []
    _check_classes(listing, table, [*classes, *unlisted])
    _check_catch_all(dataset.catch_all_class, classes)
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
    index = make_index(listing, table, classes, skipped)
    _check_splits(index)
    return align_index(index, [*classes, *unlisted]) if unlisted else index


def align_index(index: Index, classes: Sequence[str]) -> Index:
    """Return the index with a network's classes; images of another class get the label -1."""
    labels = pd.Index(classes, dtype=object).get_indexer(index.table["class"]).astype("int32")
    return replace(index, table=index.table.assign(label=labels), classes=list(classes))


def listed_part(index: Index) -> Index:
    """Return the index without images of the label -1."""
    listed = index.table["label"] >= 0
    if listed.all():
        return index
    kept = hashlib.sha256(np.packbits(listed.to_numpy()).tobytes()).hexdigest()[:16]
    return replace(index, table=index.table[listed].reset_index(drop=True), version=f"{index.version}-{kept}")


def make_index(listing: Listing, table: pd.DataFrame, classes: list[str], skipped: pd.DataFrame) -> Index:
    """Return the index of a listing's rows; a class outside of `classes` gets the label -1.

    Args:
        table: rows of the listing; has a column `given`, the labels before `dataset.relabel`, if that was applied.
    """
    table = table.reset_index(drop=True)
    table["label"] = pd.Index(classes, dtype=object).get_indexer(table["class"]).astype("int32")
    skipped = skipped[["path", "class", "split", "problem"]].reset_index(drop=True)
    columns = [*_COLUMNS, "group"] if "group" in table else _COLUMNS
    fingerprints = _fingerprints(table, listing.labels_in_paths)
    limits, coarse = listing.long_tail_limits, listing.coarse_classes
    return Index(listing.root, table[columns], classes, *fingerprints, skipped, limits, coarse)


def list_images(dataset: Source, decode: bool) -> Listing:
    """List all images of a data set, unreadable ones included, each in a split.

    Args:
        decode: decode each image once, which finds truncated ones; else only headers are read.

    Raises:
        RequestError, DataError: from `Source.scan`; or train has no image.
    """
    scan = dataset.scan()
    for note in scan.notes:
        log.info("%s", note)
    listing = read_listing(scan, DATA_FOLDER / "index", decode)
    listing = replace(listing, long_tail_limits=dataset.long_tail_limits)
    if not (listing.table["split"].isna() | (listing.table["split"] == "train")).any():
        raise DataError(f"{escape_controls(listing.root)}: train has no photo\n{dataset.fill_hint}")
    listing.table["split"] = complete_splits(listing.table, dataset)
    return listing


def _unreadable_message(listing: Listing, bad: pd.DataFrame) -> str:
    first, more = bad.iloc[0], f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    place = f"{listing.places.name(first['place'])}: " if listing.places else ""
    file = escape_controls(listing.root / first["path"])
    hint = hint_of(first["problem"])
    if listing.places and first["problem"] == MISSING:
        hint = "correct the path, or set dataset.root to the folder that the paths start at"
    return f"{place}{file}: {first['problem']}{more}\n{hint}"


def _check_classes(listing: Listing, table: pd.DataFrame, classes: list[str]) -> None:
    root = listing.root
    broken = [name for name in classes if "\n" in name or "\r" in name]
    if broken:
        raise DataError(
            f"{escape_controls(root)}: the class name {broken[0]!r} has a line break\n"
            "rename the class: lists of classes have one name per line"
        )
    for group in look_alikes(classes):
        spellings = " and ".join(map(spelled_out, group))
        log.warning("%d classes look alike and are told apart: %s; rename folders or labels to join them",
                    len(group), spellings)  # fmt: skip
    unknown = table[~table["class"].isin(classes)]
    if len(unknown):
        name, file = unknown["class"].iloc[0], escape_controls(root / unknown["path"].iloc[0])
        if twin := look_alike(name, classes):
            raise DataError(
                f"{file}: its class {spelled_out(name)} is the class {spelled_out(twin)} in train "
                f"({len(unknown)} photos of such classes)\n"
                f"{'correct its rows' if listing.places else 'rename its folder'}, so that both are the same"
            )
        raise DataError(
            f"{file}: its class has no photo in train "
            f"({len(unknown)} such photos)\n"
            f"add training photos of the class, or {'remove its rows' if listing.places else 'move its folder away'}"
        )


def _check_catch_all(name: str | None, classes: list[str]) -> None:
    """Warn about a catch-all class that is written otherwise in the data: it would count as a product."""
    if name is not None and name not in classes:
        for other in (each for each in classes if column_key(each) == column_key(name)):
            log.warning("dataset.catch_all_class=%s: the data set has no such class, but %s",
                        escape_controls(name), escape_controls(other))  # fmt: skip


def _check_splits(index: Index) -> None:
    """Raise DataError for an empty split or class."""
    splits, root = set(index.table["split"]), escape_controls(index.root)
    for split in dict.fromkeys(index.skipped["split"]):
        if split not in splits:
            raise DataError(
                f"{root}: none of the photos of {split} can be read\nlist all such photos with task=inspect"
            )
    if "val" not in splits:
        unit = "group" if "group" in index.table else "photo"
        raise DataError(
            f"{root}: no photo for val, since each class has one {unit}\nadd photos of more {unit}s, or photos of val"
        )
    empty = np.flatnonzero(index.train_counts() == 0)
    if len(empty):
        raise DataError(
            f"{root}: no training photo of the class {escape_controls(index.classes[empty[0]])} can be read\n"
            "replace its photos, or leave out small classes with dataset.min_images_per_class"
        )


def _fingerprints(table: pd.DataFrame, labels_in_paths: bool) -> tuple[str, str]:
    """Return (fingerprint, version), see `Index`."""
    digest = hashlib.sha256()
    for name in ("path", "split"):
        digest.update("\n".join(table[name].to_numpy(object)).encode())
    digest.update(table["bytes"].to_numpy(np.int64).tobytes())
    labeled = digest.copy()
    if not labels_in_paths:
        for name in ("class", "group"):
            if name in table:
                labeled.update("\n".join(table[name].to_numpy(object)).encode())
    elif "given" in table:
        changed = table[table["class"] != table["given"]]
        labeled.update("\n".join((changed["path"] + "\n" + changed["class"]).to_numpy(object)).encode())
    digest.update(table["changed"].to_numpy(np.int64).tobytes())
    return labeled.hexdigest()[:16], digest.hexdigest()[:16]
