"""RP2K's layout on disk: `<split>/<class name>/<image>` (arXiv 2006.12634).  The folder is never written to."""

import os
from pathlib import Path

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image_formats import HEAD_BYTES, format_of

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
SPLITS = ("train", "val", "test")


def scan(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """List the images, rows of (path relative to root, posix; class; split), and the paths of all other files.

    `train` must exist, `val` and `test` may.  An image is a file in a class folder with an image's suffix, in any case,
    or with an image's first bytes: `截屏2019-12-09下午7.49` has lost its `.png`.  Hidden files (macOS leaves `._x.jpg`
    behind), folders in class folders and files outside of them are other files.  A broken link or an unreadable file
    counts as an image, so that an error names it.

    Raises:
        RequestError: no folder `train` in `root`.
        DataError: an unreadable folder, a broken link in place of a folder, or a class folder of train without an
            image.
    """
    top = dict(_entries(root))
    if "train" not in top:
        raise RequestError(
            f"dataset.root={escape_controls(root)}: has no folder 'train'\n"
            "use a folder with train/<class>/<image> and test/<class>/<image>"
        )
    images, other_files = [], []
    for split in SPLITS:
        if split not in top:
            continue
        if not top[split]:
            raise DataError(f"{escape_controls(root / split)}: no folder, or a broken link\nreplace or remove it")
        for name, is_folder in _entries(root / split):
            if is_folder and not name.startswith("."):
                _scan_class(root, split, name, images, other_files)
            elif _is_broken_link(root / split / name) and not name.startswith("."):
                raise DataError(f"{escape_controls(root / split / name)}: a broken link\nreplace or remove it")
            else:
                other_files.append(f"{split}/{name}")
    return images, other_files


def _scan_class(root: Path, split: str, name: str, images: list, other_files: list) -> None:
    folder, before = root / split / name, len(images)
    for file, is_folder in _entries(folder):
        path = f"{split}/{name}/{file}"
        if is_folder or file.startswith(".") or not _is_image(folder, file):
            other_files.append(path)
        else:
            images.append((path, name, split))
    if split == "train" and len(images) == before:
        raise DataError(f"{escape_controls(folder)}: a class of train without a photo\nremove the folder or fill it")


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return (name, whether it is a folder) of each entry of a folder, sorted by name; links are followed."""
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


def _is_broken_link(file: Path) -> bool:
    return os.path.islink(file) and not os.path.exists(file)


def _is_image(folder: Path, file: str) -> bool:
    if file[file.rfind(".") :].lower() in IMAGE_SUFFIXES:
        return True
    if not os.path.isfile(folder / file):
        return _is_broken_link(folder / file)  # pipes and sockets must not be opened
    try:
        with open(folder / file, "rb") as opened:
            return format_of(opened.read(HEAD_BYTES)) is not None
    except OSError:
        return True
