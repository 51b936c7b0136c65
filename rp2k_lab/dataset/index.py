"""Every source becomes one table: path, class, label, split, width, height.

Scanning a folder is quick; reading 342,000 headers is not, so they are kept as parquet beside the clone's data, one
file a folder, and a row is read again only when the photo's size in bytes or its time of change differ.
"""

import hashlib
import logging
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from rp2k_lab import PROJECT
from rp2k_lab.dataset import grocery_store, rp2k
from rp2k_lab.dataset.shelf.generate import make_shelf
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.errors import DataError, RequestError

log = logging.getLogger(__name__)

DATA_FOLDER = PROJECT / "data"


@dataclass(frozen=True)
class Index:
    """A data set's photos.

    Attributes:
        root: the folder that `table.path` is relative to.
        table: one row a photo, columns path (posix), class, label (int, position in `classes`), split (train, val or
            test), width, height (pixels as stored).
        classes: class names; a label is a position in them.
        fingerprint: hash of every photo's path, split and size in bytes: the same for the same photos anywhere.
    """

    root: Path
    table: pd.DataFrame
    classes: list[str]
    fingerprint: str

    def split(self, name: str) -> pd.DataFrame:
        """The rows of train, val or test, in the index's order."""
        return self.table[self.table["split"] == name].reset_index(drop=True)

    def train_counts(self) -> np.ndarray:
        """Training images per class, int64 (classes,)."""
        return np.bincount(self.split("train")["label"], minlength=len(self.classes))


def build_index(dataset) -> Index:
    """The index of a `conf/dataset` choice; makes the shelf set if it is not there yet.

    Raises:
        RequestError: the root has another layout, or the shelf's options contradict each other.
        DataError: an empty class in train, a class name with a line break, a photo whose header cannot be read, no val
            photo.
    """
    root = _root(dataset)
    scan = grocery_store.scan if dataset.name == "grocery_store" else rp2k.scan
    table = _with_headers(root, scan(root))
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    broken = [name for name in classes if "\n" in name or "\r" in name]
    if broken:
        raise DataError(f"{root}: the class name {broken[0]!r} has a line break\na list of classes has one name a line")
    unknown = table[~table["class"].isin(classes)]
    if len(unknown):
        raise DataError(
            f"{root / unknown['path'].iloc[0]}: its class has no photo in train ({len(unknown)} such photos)\n"
            "give the class training photos or move its folder away"
        )
    table["label"] = table["class"].map({name: i for i, name in enumerate(classes)}).astype("int32")
    if not (table["split"] == "val").any():
        table["split"] = hold_out_val(table, dataset.val_share, dataset.val_seed)
    if not (table["split"] == "val").any():
        raise DataError(f"{root}: no photo for val\nval is taken from classes with two or more photos; all have one")
    columns = ["path", "class", "label", "split", "width", "height"]
    return Index(root, table[columns], classes, fingerprint(table))


@dataclass(frozen=True)
class Listing:
    """Stand-in until the integrator's own."""

    root: Path
    table: pd.DataFrame
    not_photos: list[str]


def list_photos(dataset, decode: bool) -> Listing:
    """Stand-in until the integrator's own."""
    import cv2

    root = _root(dataset)
    table = grocery_store.scan(root) if dataset.name == "grocery_store" else rp2k.scan(root)
    rows = []
    for path in tqdm(table["path"], "decoding", unit=" photos", leave=False, disable=None):
        file = root / path
        stat = file.stat() if file.exists() else None
        problem = "broken link" if stat is None else None if stat.st_size else "zero bytes"
        image = cv2.imdecode(np.fromfile(file, np.uint8), 1) if problem is None else None
        if problem is None and image is None:
            problem = "not a picture"
        size = (0, 0) if image is None else image.shape[1::-1]
        rows.append((stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0, *size, problem))
    columns = ["bytes", "changed", "width", "height", "problem"]
    table = pd.concat([table, pd.DataFrame(rows, columns=columns)], axis=1).astype({"problem": object})
    table["problem"] = table["problem"].where(table["problem"].notna(), None)
    if not (table["split"] == "val").any():
        table["split"] = hold_out_val(table, dataset.val_share, dataset.val_seed)
    files = {f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file() or f.is_symlink()}
    return Listing(root, table, sorted(f for f in files - set(table["path"]) if "/" in f))


def fingerprint(table: pd.DataFrame) -> str:
    """Hash of every photo's path, split and size in bytes: the same for the same photos anywhere."""
    listing = table["path"] + "\t" + table["split"] + "\t" + table["bytes"].astype(str)
    return hashlib.sha256("\n".join(listing).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def hold_out_val(table: pd.DataFrame, share: float, seed: int) -> pd.Series:
    """The split column with a stratified, seeded part of train turned into val.

    Of a class with n >= 2 training photos, round(share·n) go to val, at least one and not all; a class with a single
    one keeps it in train.  The choice within a class depends on (seed, class name) alone, so that a class added later
    changes no other.
    """
    split = table["split"].copy()
    single = 0
    for name, photos in table[table["split"] == "train"].groupby("class"):
        if len(photos) < 2:
            single += 1
            continue
        order = np.random.default_rng([seed, zlib.crc32(str(name).encode())]).permutation(len(photos))
        held_out = min(len(photos) - 1, max(1, round(share * len(photos))))
        split.loc[photos.index[order[:held_out]]] = "val"
    if single:
        log.info("%d classes have a single image: it stays in train, val lacks them", single)
    return split


def _root(dataset) -> Path:
    if dataset.root is not None:
        return dataset.root
    options = ShelfOptions(**{key: getattr(dataset, key) for key in ShelfOptions.model_fields})
    try:
        return make_shelf(options, DATA_FOLDER)
    except ValueError as error:
        raise RequestError(f"dataset: {error}") from None


def _with_headers(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Add bytes, changed (ns), width and height, from the kept headers where a photo is unchanged."""
    stats = [_stat(root / path) for path in table["path"]]
    table = table.assign(bytes=[s.st_size for s in stats], changed=[s.st_mtime_ns for s in stats])
    name = f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}.parquet"
    kept_file = DATA_FOLDER / "index" / name
    keys = ["path", "bytes", "changed"]
    kept = _read_kept(kept_file, [*keys, "width", "height"])
    table = table.merge(kept, on=keys, how="left") if len(kept) else table.assign(width=np.nan, height=np.nan)
    missing = table.index[table["width"].isna()]
    if len(missing):
        paths = [root / path for path in table.loc[missing, "path"]]
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            sizes = list(tqdm(pool.map(_header, paths), "index", len(paths), unit=" photos", leave=False, disable=None))
        table.loc[missing, ["width", "height"]] = np.array(sizes, float)
    table[["width", "height"]] = table[["width", "height"]].astype("int32")
    if len(missing) or len(kept) != len(table):
        _write_parquet(table[[*keys, "width", "height"]], kept_file)
    return table


def _read_kept(file: Path, columns: list[str]) -> pd.DataFrame:
    """What a former run read; a file that is absent or damaged holds nothing."""
    try:
        return pd.read_parquet(file, columns=columns)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s): the photos' headers are read again", file, type(error).__name__)
    return pd.DataFrame(columns=columns)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}\nrestore the file or take it off the list") from None


def _header(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, read from the header alone."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = type(error).__name__
        raise DataError(f"{path}: not a readable picture ({reason})\nreplace or remove the file") from None


def _write_parquet(table: pd.DataFrame, file: Path) -> None:
    """Whole or not at all: two runs may write the same file at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        temporary = file.with_suffix(".tmp")
        table.to_parquet(temporary, index=False)
        temporary.replace(file)
