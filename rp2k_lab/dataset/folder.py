"""RP2K's layout on disk: `<split>/<class name>/<image>` (arXiv 2006.12634).  The folder is only ever read."""

import os
from pathlib import Path

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image_formats import HEAD_BYTES, format_of

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
SPLITS = ("train", "val", "test")


def scan(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """List every photo: rows of (path relative to root, posix; class; split), and the paths of what is none.

    `train` must exist, `val` and `test` may.  A photo is a file of a class folder with an image's suffix, in any case,
    or without one of these but with an image's first bytes: `截屏2019-12-09下午7.49` has lost its `.png`.  Hidden files
    (macOS leaves `._x.jpg` behind), folders in class folders and files outside of them are none.  What cannot be told,
    a link without an end or a file that may not be read, counts as a photo, so that it is named and not lost.

    Raises:
        RequestError: no folder `train` in `root`.
        DataError: a folder that cannot be listed, a link in the place of a folder that leads nowhere, or a class folder
            of train without a photo.
    """
    top = dict(_entries(root))
    if "train" not in top:
        raise RequestError(
            f"dataset.root={escape_controls(root)}: there is no folder 'train' in it\n"
            "the layout is train/<class>/<image> and test/<class>/<image>"
        )
    photos, others = [], []
    for split in SPLITS:
        if split not in top:
            continue
        if not top[split]:
            raise DataError(
                f"{escape_controls(root / split)}: no folder, or a link that leads to none\nreplace or remove it"
            )
        for name, is_folder in _entries(root / split):
            if is_folder and not name.startswith("."):
                _scan_class(root, split, name, photos, others)
            elif _leads_nowhere(root / split / name) and not name.startswith("."):
                raise DataError(
                    f"{escape_controls(root / split / name)}: a link that leads nowhere\nreplace or remove it"
                )
            else:
                others.append(f"{split}/{name}")
    return photos, others


def _scan_class(root: Path, split: str, name: str, photos: list, others: list) -> None:
    folder, found = root / split / name, len(photos)
    for file, is_folder in _entries(folder):
        path = f"{split}/{name}/{file}"
        if is_folder or file.startswith(".") or not _is_photo(folder, file):
            others.append(path)
        else:
            photos.append((path, name, split))
    if split == "train" and len(photos) == found:
        raise DataError(f"{escape_controls(folder)}: a class of train without a photo\nremove the folder or fill it")


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what a folder holds, sorted by name; links are followed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise DataError(
            f"{escape_controls(folder)}: the folder cannot be listed ({error.strerror})\nmake it readable"
        ) from None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _leads_nowhere(file: Path) -> bool:
    return os.path.islink(file) and not os.path.exists(file)


def _is_photo(folder: Path, file: str) -> bool:
    if file[file.rfind(".") :].lower() in IMAGE_SUFFIXES:
        return True
    if not os.path.isfile(folder / file):
        return _leads_nowhere(folder / file)  # and what is neither, a pipe or a socket, must not be opened
    try:
        with open(folder / file, "rb") as opened:
            return format_of(opened.read(HEAD_BYTES)) is not None
    except OSError:
        return True
