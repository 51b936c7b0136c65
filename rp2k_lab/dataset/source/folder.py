"""dataset=folder: photos in `<class>/<image>`, or in `train|val|test/<class>/<image>`.  The folder is never written to.

The reader also serves the data sets that have this layout, with the facts of each.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.options import Count
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image_formats import HEAD_BYTES, SUFFIXES, format_of
from rp2k_lab.dataset.options import SPLIT_NAMES, SPLITS, OwnPhotos, Scan, title_of
from rp2k_lab.plugins import register


@register("dataset")
class Folder(OwnPhotos):
    """A folder of photos.  Where folders are nested, a class is the path of the folder that holds its photos."""

    name: Literal["folder"]
    class_depth: Count | None = Field(
        description="levels of folders that make a class, from the top; 1: the topmost folder with all photos below "
        "it; null: all levels (Fruit/Apple/Gala)"
    )
    split_folders: bool | None = Field(
        description="true: read the folders named train, val or test (or valid, validation, testing) and no others; "
        "false: every folder is a class; null: decide by the names"
    )
    fill_hint = "put photos into <class>/ or train/<class>/"

    @property
    def title(self) -> str:
        """The folder's name."""
        return title_of(self.root) if self.root else self.name

    def scan(self) -> Scan:
        """List the photos (`read_classes`, `read_splits`).

        Raises:
            RequestError: no class, no folder for train, two folders for one split, or folders of splits beside others.
            DataError: see `FolderReader`.
        """
        self.check_files()
        assert self.root is not None
        reader = FolderReader(self.root, nested=True, class_depth=self.class_depth)
        split_folders = self._split_folders(reader)
        if split_folders:
            reader.read_splits(split_folders)
        else:
            reader.read_classes()
        return reader.scan(labels_in_paths=False)

    def _split_folders(self, reader: "FolderReader") -> dict[str, str]:
        """Return split to folder; empty if the folders are classes."""
        visible = [name for name, is_folder in reader.top if is_folder and not name.startswith(".")]
        named = [name for name in visible if name.lower() in SPLIT_NAMES]
        if self.split_folders is False or (self.split_folders is None and not named):
            return {}
        source = f"dataset.root={escape_controls(reader.root)}"
        others = [name for name in visible if name not in named]
        if self.split_folders is None and others:
            raise RequestError(
                f"{source}: {escape_controls(named[0])} is a split's name, but {escape_controls(others[0])} is not\n"
                "add dataset.split_folders=true to read the splits alone, or dataset.split_folders=false for classes"
            )
        found: dict[str, str] = {}
        for name in named:
            split = SPLIT_NAMES[name.lower()]
            if split in found:
                both = f"{escape_controls(found[split])} and {escape_controls(name)}"
                raise RequestError(
                    f"{source}: both {both} are folders for {split}\n"
                    "move one of them away, or add dataset.split_folders=false for classes"
                )
            found[split] = name
        if "train" not in found:
            raise RequestError(
                f"{source}: has no folder train beside {escape_controls(named[0]) if named else 'its folders'}\n"
                "add train/<class>/<image>, or dataset.split_folders=false for classes"
            )
        return found


class FolderReader:
    """Lists the images below a folder.

    An image is a file with an image's suffix, in any case, or with an image's first bytes: `截屏2019-12-09下午7.49` has
    lost its `.png`.  Hidden files (macOS leaves `._x.jpg` behind) and files outside of class folders are other files.
    A broken link or an unreadable file counts as an image, so that an error names it.

    Args:
        root: the folder.
        nested: whether folders in class folders hold images; otherwise they are other files.
        class_depth: levels of folders that make a class; None: all.

    Attributes:
        top: (name, whether it is a folder) of each entry of the folder.

    Raises:
        DataError: an unreadable folder, a broken link in place of a folder, a link to a folder above it, or a class
            folder for training without an image.
    """

    def __init__(self, root: Path, nested: bool, class_depth: int | None = None):
        self.root, self.top = root, _entries(root)
        self._nested, self._depth = nested, class_depth
        self._images: list[tuple[str, str, str | None]] = []
        self._other_files: list[str] = []
        self._mixed: list[str] = []

    def scan(self, labels_in_paths: bool) -> Scan:
        """Return what was read; `labels_in_paths` as in `Scan`."""
        notes = []
        if self._mixed:
            notes.append(
                f"{len(self._mixed)} folders hold photos beside folders of photos, which are other classes: "
                f"{escape_controls(self._mixed[0])}, …; dataset.class_depth joins them"
            )
        return Scan(self.root, self._images, self._other_files, labels_in_paths=labels_in_paths, notes=notes)

    def read_splits(self, folders: Mapping[str, str]) -> None:
        """Read `<split>/<class>/<image>`; `folders` maps a split to its folder."""
        top = dict(self.top)
        for split in SPLITS:
            if split in folders:
                if not top[folders[split]]:
                    raise DataError(
                        f"{escape_controls(self.root / folders[split])}: no folder, or a broken link\n"
                        "replace or remove it"
                    )
                self._read_top(f"{folders[split]}/", split)

    def read_classes(self) -> None:
        """Read `<class>/<image>`.

        Raises:
            RequestError: there is no class folder.
        """
        self._read_top("", None)
        if not self._images:
            raise RequestError(
                f"dataset.root={escape_controls(self.root)}: has no folder of a class with photos\n"
                "use a folder with <class>/<image>, or with train/<class>/<image>"
            )

    def _read_top(self, prefix: str, split: str | None) -> None:
        """Read a folder of class folders; `prefix` is its path below the root, with a slash."""
        folder = self.root / prefix
        above = (_identity(folder),) if self._nested else ()
        for name, is_folder in self.top if not prefix else _entries(folder):
            if is_folder and not name.startswith("."):
                if not self._read_class(f"{prefix}{name}", (name,), split, above):
                    self._check_training(folder / name, split)
            elif _is_broken_link(folder / name) and not name.startswith("."):
                raise DataError(f"{escape_controls(folder / name)}: a broken link\nreplace or remove it")
            else:
                self._other_files.append(f"{prefix}{name}")

    def _read_class(self, path: str, levels: tuple[str, ...], split: str | None, above: tuple) -> bool:
        """Read a class folder; return whether it or a folder in it holds an image."""
        folder, images, before = self.root / path, self._images, len(self._images)
        empty, has_folders = [], False
        if self._nested:
            above = (*above, _identity(folder))
            if above[-1] in above[:-1]:
                raise DataError(f"{escape_controls(folder)}: a link to a folder above it\nremove it")
        name, own = "/".join(levels[: self._depth]), 0
        for file, is_folder in _entries(folder):
            inner = f"{path}/{file}"
            if is_folder and self._nested and not file.startswith("."):
                if self._read_class(inner, (*levels, file), split, above):
                    has_folders = True
                else:
                    empty.append(folder / file)
            elif is_folder or file.startswith(".") or not _is_image(folder, file):
                self._other_files.append(inner)
            else:
                images.append((inner, name, split))
                own += 1
        if not own and has_folders and empty and (self._depth is None or len(levels) < self._depth):
            self._check_training(empty[0], split)
        if own and has_folders and (self._depth is None or len(levels) < self._depth):
            self._mixed.append(path)
        return len(images) > before

    def _check_training(self, folder: Path, split: str | None) -> None:
        """Raise DataError for a class folder without an image, unless it is of val or test."""
        if split in ("train", None):
            raise DataError(
                f"{escape_controls(folder)}: a class of train without a photo\nremove the folder or fill it"
            )


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return (name, whether it is a folder) of each entry of a folder, sorted by name; links are followed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise DataError(
            f"{escape_controls(folder)}: the folder cannot be listed ({error.strerror})\nmake it readable"
        ) from None


def _identity(folder: Path) -> tuple[int, int]:
    """Return (device, inode) of a folder, links followed."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_broken_link(file: Path) -> bool:
    return os.path.islink(file) and not os.path.exists(file)


def _is_image(folder: Path, file: str) -> bool:
    if file[file.rfind(".") :].lower() in SUFFIXES:
        return True
    if not os.path.isfile(folder / file):
        return _is_broken_link(folder / file)  # pipes and sockets must not be opened
    try:
        with open(folder / file, "rb") as opened:
            return format_of(opened.read(HEAD_BYTES)) is not None
    except OSError:
        return True
