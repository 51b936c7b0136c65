"""Images to enroll: read from a folder or a table, and refused where they contradict what the network knows."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from rp2k_lab import plugins
from rp2k_lab.analysis.photo_quality import SIDE, measure_images
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.core.csv_files import UnreadableText, decode, read_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.class_names import near_twin, spelled_out
from rp2k_lab.dataset.crops import file_of
from rp2k_lab.dataset.image import read_shrunk
from rp2k_lab.dataset.listing import read_listing
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.photo_index import DATA_FOLDER, Index
from rp2k_lab.extension.extension_file import Extension

# Lists of classes have a name a line, and file names have no zero.
_BROKEN = re.compile("[\n\r\0]")
# Below, an image shows nothing [pixels].
_LEAST_SIDE = 8
# Standard deviation of 8-bit values of each channel below which an image is one color: JPEG's noise stays below.
_LEAST_SPREAD = 2.0


@dataclass(frozen=True)
class NewImages:
    """Images to enroll.

    Attributes:
        root: the folder that paths are relative to.
        table: one row a readable image, by class and path: path, class, width, height [pixels], sha256.
        unreadable: path, class, problem.
        repeated: path, class: images that are already enrolled or training images of the same class.
    """

    root: Path
    table: pd.DataFrame
    unreadable: pd.DataFrame
    repeated: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        """The names of classes with a readable image, sorted."""
        return sorted(self.table["class"].unique())


def read_new_images(key: str, source: Path) -> NewImages:
    """Return the images of a folder (a folder a product) or a table (path, label; .csv or .parquet).

    Args:
        key: of the request, for messages: task.input or task.add_images.

    Raises:
        RequestError, DataError: no image, from the reader of such a data set, or an image of a few pixels.
    """
    request = f"{key}={escape_controls(source)}"
    if source.is_dir():
        choice, keys = "folder", {"root": source, "split_folders": False}
    elif source.suffix.lower() in (".csv", ".parquet"):
        choice, keys = "table", {"table": source}
    else:
        raise RequestError(f"{request}: neither a folder nor a table\nuse a folder with <product>/<photo>, or a .csv")
    options = plugins.options_of("dataset")[choice].model_validate(defaults_of("dataset", choice) | keys)
    try:
        listing = read_listing(cast("Source", options).scan(), DATA_FOLDER / "index", decode=True)
    except (RequestError, DataError) as error:  # the reader names its own keys
        own_key = "dataset.root=" if choice == "folder" else "dataset.table="
        raise type(error)(str(error).replace(own_key, f"{key}=")) from None
    table = listing.table.sort_values(["class", "path"], ignore_index=True)
    bad = table["problem"].notna()
    for name, group in bad.groupby(table["class"]):
        if group.all():
            first = table.loc[group.index[0]]
            raise DataError(
                f"{request}: none of {len(group)} photos of {escape_controls(str(name))} can be read "
                f"({escape_controls(first['path'])}: {first['problem']})\nreplace them, or remove the product"
            )
    good = table[~bad][["path", "class", "width", "height"]].reset_index(drop=True)
    tiny = good[good[["width", "height"]].min(axis=1) < _LEAST_SIDE]
    if len(tiny):
        path, _, width, height = tiny.iloc[0]
        name = escape_controls(listing.root / path)
        raise DataError(f"{name}: has {width} × {height} pixels\nremove it: a product needs {_LEAST_SIDE} or more")
    good["sha256"] = [image_sha256(listing.root / path) for path in good["path"]]
    twice = good.duplicated(["class", "sha256"])
    empty = pd.DataFrame({"path": [], "class": []})
    unreadable = table[bad][["path", "class", "problem"]].reset_index(drop=True)
    repeated = pd.concat([empty, good[twice][["path", "class"]]], ignore_index=True)
    return NewImages(listing.root, good[~twice].reset_index(drop=True), unreadable, repeated)


def measure_new(images: NewImages, num_threads: int | None, check: Callable[[], None]) -> pd.DataFrame:
    """Return `measure_images` of the images.

    Raises:
        DataError: an image is of one color.
    """
    quality = measure_images(images.root, images.table["path"].tolist(), num_threads, check)
    # The luma spreads less than the channel that spreads most: few images are read again.
    for path in images.table["path"][(255 * quality["contrast"] < _LEAST_SPREAD).to_numpy()]:
        if read_shrunk(images.root / path, SIDE).std(axis=(0, 1)).max() < _LEAST_SPREAD:
            shown = escape_controls(images.root / path)
            raise DataError(f"{shown}: is of one color\nremove it: it shows no product")
    return quality


def image_sha256(path: Path | str) -> str:
    """Return the SHA-256 of an image's bytes; of a crop, of the file's bytes and the box."""
    file, box = file_of(path)
    digest = hashlib.sha256(Path(file).read_bytes())
    if box:
        digest.update(repr(tuple(box)).encode())
    return digest.hexdigest()


def check_names(key: str, images: NewImages, classes: Sequence[str]) -> None:
    """Raise RequestError unless all classes are new (task.input), or all are listed (task.add_images)."""
    listed = set(classes)
    for name in [*images.classes, *sorted(set(images.unreadable["class"]) - set(images.classes))]:
        shown = escape_controls(name)
        if _BROKEN.search(name):
            raise RequestError(f"{key}: the product name {name!r} has a line break or a zero\nrename the product")
        if key == "task.add_images" and name not in listed:
            twin = near_twin(name, classes)
            meant = f"; {spelled_out(twin)} is" if twin else ""
            raise RequestError(
                f"{key}: {shown} is no product of this network{meant}\n"
                "use task.input=<folder> for new products, or rename the folder"
            )
        if key == "task.input":
            if name in listed:
                raise RequestError(
                    f"{key}: {shown} is already a product of this network\n"
                    "use task.add_images=<folder> to add photos of it, or rename the folder"
                )
            others = [*classes, *(other for other in images.classes if other != name)]
            if twin := near_twin(name, others):
                raise RequestError(
                    f"{key}: {spelled_out(name)} differs from {spelled_out(twin)} in case, width or accents alone\n"
                    "rename the folder, or use task.add_images=<folder> if they are one product"
                )


def check_images(key: str, images: NewImages, index: Index, extension: Extension) -> NewImages:
    """Return the images without those that are known under the same class.

    Args:
        index: the base's data set.

    Raises:
        DataError: an image that is enrolled under another class, twice under new ones, or in the base's data set under
            another class, in val or in test.
    """
    table = images.table
    enrolled = zip(extension.enrolled.sha256, extension.enrolled.labels, strict=True)
    known = {sha: extension.classes[label] for sha, label in enrolled}
    base = base_copies(images, index)
    owners: dict[str, str] = {}
    repeated = []
    for row, (path, name, sha) in enumerate(zip(table["path"], table["class"], table["sha256"], strict=True)):
        shown = escape_controls(images.root / path)
        copy = base.get(sha)
        if copy is not None and copy.split in ("val", "test"):
            raise DataError(
                f"{shown}: is {escape_controls(copy.path)} of the base's {copy.split} split\n"
                "remove it: a photo that measures a network cannot teach it"
            )
        other = owners.get(sha) or known.get(sha) or (copy.name if copy else None)
        if other is not None and other != name:
            where = "of this input" if sha in owners else "of this network"
            raise DataError(
                f"{shown}: is {escape_controls(name)} here, and {escape_controls(other)} {where}\n"
                "remove it from one of the two products"
            )
        if other is not None:
            repeated.append(row)
        owners[sha] = name
    left = table.drop(index=repeated).reset_index(drop=True)
    if left.empty:
        raise DataError(f"{key}: all {len(table)} photos are enrolled already\nadd other photos")
    more = pd.concat([images.repeated, table.iloc[repeated][["path", "class"]]], ignore_index=True)
    return NewImages(images.root, left, images.unreadable, more)


@dataclass(frozen=True)
class Copy:
    """An image of the base's data set: path, class and split."""

    path: str
    name: str
    split: str


def base_copies(images: NewImages, index: Index) -> dict[str, Copy]:
    """Return SHA-256 to the image of the base's data set with the same bytes.

    Only files of the same size are read.
    """
    sizes = {Path(file_of(images.root / path)[0]).stat().st_size for path in images.table["path"]}
    table = index.table[index.table["bytes"].isin(sizes)]
    found = {}
    for path, name, split in zip(table["path"], table["class"], table["split"], strict=True):
        found[image_sha256(index.root / path)] = Copy(path, name, split)
    return found


def read_names(key: str, file: Path) -> list[str]:
    """Return the names of a text file, one a line.

    Raises:
        RequestError: it cannot be read, or has none.
    """
    with _readable(key, file):
        lines = decode(file.read_bytes(), file).split("\n")
    names = [line.removesuffix("\r") for line in lines if line.strip()]
    if not names:
        raise RequestError(f"{key}={escape_controls(file)}: names no product\nadd a name a line")
    return names


def read_renames(key: str, file: Path) -> dict[str, str]:
    """Return old to new name, of a table with the columns old and new.

    Raises:
        RequestError: it cannot be read, lacks a column, or names a product twice.
    """
    with _readable(key, file):
        table = read_csv(file)
    request = f"{key}={escape_controls(file)}"
    if missing := {"old", "new"} - set(table):
        raise RequestError(f"{request}: has no column {min(missing)}\nadd the columns old and new")
    if table.empty:
        raise RequestError(f"{request}: has no row\nadd a row a product")
    for column in ("old", "new"):
        wrong = table[column][table[column].duplicated() | (table[column].str.strip() == "")]
        if len(wrong):
            problem = f"has {escape_controls(wrong.iloc[0])} twice" if wrong.iloc[0].strip() else "has an empty name"
            raise RequestError(f"{request}: {problem} in column {column}\nuse each name once")
    return dict(zip(table["old"], table["new"], strict=True))


@contextmanager
def _readable(key: str, file: Path) -> Iterator[None]:
    """Turn what goes wrong while a person's file is read into a RequestError."""
    request = f"{key}={escape_controls(file)}"
    try:
        yield
    except UnreadableText as error:
        raise RequestError(f"{request}{error}") from None
    except OSError as error:
        raise RequestError(f"{request}: cannot be read ({error.strerror})\nuse a file that you may read") from None


def check_listed(key: str, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise RequestError unless all names are classes."""
    for name in names:
        if name not in classes:
            twin = near_twin(name, classes)
            meant = f"; {spelled_out(twin)} is" if twin else ""
            raise RequestError(
                f"{key}: {escape_controls(name)} is no product of this network{meant}\nuse names of its classes.txt"
            )


def check_renames(key: str, names: dict[str, str], classes: Sequence[str]) -> None:
    """Raise RequestError unless old names are classes, and no two classes get the same or nearly the same name."""
    check_listed(key, list(names), classes)
    result = [names.get(name, name) for name in classes]
    for new in names.values():
        if _BROKEN.search(new):
            raise RequestError(f"{key}: the new name {new!r} has a line break or a zero\nuse another name")
        others = list(result)
        others.remove(new)
        if new in others or near_twin(new, others):
            other = new if new in others else near_twin(new, others)
            raise RequestError(
                f"{key}: {escape_controls(new)} would be the name of two products ({spelled_out(str(other))})\n"
                "use names that differ in more than case, width or accents"
            )


def vectors_finite(vectors: np.ndarray, images: NewImages) -> None:
    """Raise DataError where the network gives an image NaN or infinite features."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        path = escape_controls(images.root / images.table["path"].iloc[bad[0]])
        raise DataError(f"{path}: the network's features are NaN or infinite\nuse weights of an earlier epoch")
