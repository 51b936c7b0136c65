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
from rp2k_lab.dataset.folder_walk import (
    entries,
    files_below,
    has_image_suffix,
    identity,
    is_broken_link,
    is_hidden,
    is_image,
    photos_in_hidden,
)
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
            RequestError: no class, no folder for train, two folders for one split, or folders of splits beside others
                or below another folder.
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
        scan = reader.scan(labels_in_paths=False)
        if self.split_folders is None and not split_folders:
            _check_no_splits_below(scan)
        return scan

    def _split_folders(self, reader: "FolderReader") -> dict[str, str]:
        """Return split to folder; empty if the folders are classes."""
        visible = [name for name, is_folder in reader.top if is_folder and not is_hidden(name)]
        named = reader.named
        if self.split_folders is False or (self.split_folders is None and not named):
            return {}
        source = f"dataset.root={escape_controls(reader.root)}"
        others = [name for name in visible if name not in named]
        if self.split_folders is None and others:
            raise RequestError(
                f"{source}: {escape_controls(named[0])} is a split's name, but {escape_controls(others[0])} is not\n"
                "add dataset.split_folders=true to read the splits alone, or dataset.split_folders=false for classes"
            )
        found = reader.splits(", or add dataset.split_folders=false for classes")
        if "train" not in found:
            raise RequestError(
                f"{source}: has no folder train beside {escape_controls(named[0]) if named else 'its folders'}\n"
                "add train/<class>/<image>, or dataset.split_folders=false for classes"
            )
        return found


class FolderReader:
    """Lists the images below a folder.

    An image is a file with an image's suffix, in any case, or with an image's first bytes: `截屏2019-12-09下午7.49` has
    lost its `.png`.  A broken link or an unreadable file counts as an image, so that an error names it.  Images outside
    of class folders or in hidden folders are not used; all else is another file, also hidden ones (macOS leaves
    `._x.jpg` behind).

    Args:
        root: the folder.
        nested: whether folders in class folders are classes.
        class_depth: levels of folders that make a class; None: all.

    Attributes:
        top: (name, whether it is a folder) of each entry of the folder.
        named: names of the folders with a split's name, and of broken links in place of one.

    Raises:
        DataError: an unreadable folder, a broken link in place of a folder, a link to a folder above it, a class folder
            for training without an image, or images in a folder of a class where no folders are nested.
    """

    def __init__(self, root: Path, nested: bool, class_depth: int | None = None):
        self.root, self.top = root, entries(root)
        self.named = [
            name
            for name, is_folder in self.top
            if name.lower() in SPLIT_NAMES and (is_folder or is_broken_link(root / name))
        ]
        self._nested, self._depth = nested, class_depth
        self._images: list[tuple[str, str, str | None]] = []
        self._other_files: list[str] = []
        self._unused_images: list[str] = []
        self._mixed: list[str] = []

    def scan(self, labels_in_paths: bool) -> Scan:
        """Return what was read; `labels_in_paths` as in `Scan`."""
        notes = []
        if self._mixed:
            notes.append(
                f"{len(self._mixed)} folders hold photos beside folders of photos, which are other classes: "
                f"{escape_controls(self._mixed[0])}, …; dataset.class_depth joins them"
            )
        return Scan(
            self.root,
            self._images,
            self._other_files,
            labels_in_paths=labels_in_paths,
            notes=notes,
            unused_images=self._unused_images,
        )

    def splits(self, other_way: str = "") -> dict[str, str]:
        """Return split to folder, of the folders with a split's name, in any case.

        Args:
            other_way: end of the message's second line.

        Raises:
            RequestError: two folders for one split.
        """
        found: dict[str, str] = {}
        for name, _ in self.top:
            split = SPLIT_NAMES.get(name.lower())
            if split in found:
                both = f"{escape_controls(found[split])} and {escape_controls(name)}"
                raise RequestError(
                    f"dataset.root={escape_controls(self.root)}: both {both} are folders for {split}\n"
                    f"move one of them away{other_way}"
                )
            if split is not None:
                found[split] = name
        return found

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
        for name, is_folder in self.top:
            if name not in folders.values():
                self._leave_out("", name, is_folder)

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
        above = (identity(folder),) if self._nested else ()
        for name, is_folder in self.top if not prefix else entries(folder):
            if is_folder and not is_hidden(name):
                if not self._read_class(f"{prefix}{name}", (name,), split, above):
                    self._check_training(folder / name, split)
            elif is_broken_link(folder / name) and not is_hidden(name):
                raise DataError(f"{escape_controls(folder / name)}: a broken link\nreplace or remove it")
            else:
                self._leave_out(prefix, name, is_folder)

    def _read_class(self, path: str, levels: tuple[str, ...], split: str | None, above: tuple) -> bool:
        """Read a class folder; return whether it or a folder in it holds an image."""
        folder, images, before = self.root / path, self._images, len(self._images)
        empty, has_folders = [], False
        if self._nested:
            above = (*above, identity(folder))
            if above[-1] in above[:-1]:
                raise DataError(f"{escape_controls(folder)}: a link to a folder above it\nremove it")
        name, own = "/".join(levels[: self._depth]), 0
        for file, is_folder in entries(folder):
            inner = f"{path}/{file}"
            if is_folder and self._nested and not is_hidden(file):
                if self._read_class(inner, (*levels, file), split, above):
                    has_folders = True
                else:
                    empty.append(folder / file)
            elif is_folder or is_hidden(file) or not is_image(folder, file):
                self._leave_out(f"{path}/", file, is_folder)
            else:
                images.append((inner, name, split))
                own += 1
        if not own and has_folders and empty and (self._depth is None or len(levels) < self._depth):
            self._check_training(empty[0], split)
        if own and has_folders and (self._depth is None or len(levels) < self._depth):
            self._mixed.append(path)
        return len(images) > before

    def _leave_out(self, prefix: str, name: str, is_folder: bool) -> None:
        """Note a file or a folder that is not read as unused images and other files."""
        path = f"{prefix}{name}"
        if not is_folder:
            unused = not is_hidden(name) and is_image(self.root / prefix, name)
            (self._unused_images if unused else self._other_files).append(path)
        elif is_hidden(name):
            self._other_files.append(f"{path}/")
            self._unused_images += photos_in_hidden(self.root / path, f"{path}/")
        else:
            self._leave_out_folder(path)

    def _leave_out_folder(self, path: str) -> None:
        """Note the files below a folder; a folder in a class's folder must have no image."""
        parts = path.split("/")
        in_class = len(parts) > 1
        above = tuple(identity(self.root.joinpath(*parts[:depth])) for depth in range(len(parts)))
        images: list[str] = []
        other_files: list[str] = []
        if identity(self.root / path) not in above:
            for file, reason in files_below(self.root / path, f"{path}/", above):
                parent, name = os.path.split(file)
                # Beside the classes, opening files without an image's suffix would take long for a large archive.
                as_image = is_image(self.root / parent, name) if in_class else has_image_suffix(name)
                (images if as_image and reason is None and not is_hidden(name) else other_files).append(file)
        if images and in_class:
            raise DataError(
                f"{escape_controls(self.root / path)}: {len(images)} photos in a folder of a class's folder\n"
                "move them into the class's folder, or read nested folders: dataset=folder dataset.class_depth=1"
            )
        self._unused_images += images
        self._other_files += other_files if images or other_files else [f"{path}/"]

    def _check_training(self, folder: Path, split: str | None) -> None:
        """Raise DataError for a class folder without an image, unless it is of val or test."""
        if split in ("train", None):
            raise DataError(
                f"{escape_controls(folder)}: a class of train without a photo\nremove the folder or fill it"
            )


def _check_no_splits_below(scan: Scan) -> None:
    """Raise RequestError if folders of splits stand deeper than the root, where each would be read as classes."""
    splits: dict[str, set[str]] = {}
    for folder in {os.path.dirname(path) for path, _, _ in scan.images}:
        parts = folder.split("/")
        for depth, name in enumerate(parts):
            if name.lower() in SPLIT_NAMES:
                splits.setdefault("/".join(parts[:depth]), set()).add(SPLIT_NAMES[name.lower()])
    above = sorted(folder for folder, names in splits.items() if len(names) > 1 and "train" in names)
    if above:
        first, names = escape_controls(above[0]), " and ".join(sorted(splits[above[0]]))
        way_out = f"use dataset.root={escape_controls(scan.root / above[0])}"
        if len(above) > 1:
            way_out = "arrange the photos as train/<class>/<image>"
        raise RequestError(
            f"dataset.root={escape_controls(scan.root)}: {first} has the folders of splits {names}\n"
            f"{way_out}, or add dataset.split_folders=false for classes"
        )
