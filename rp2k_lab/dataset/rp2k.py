"""RP2K's layout on disk: `<split>/<class name>/<image>` (arXiv 2006.12634).  The folder is only ever read."""

import os
from pathlib import Path

from rp2k_lab.errors import DataError, RequestError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
SPLITS = ("train", "val", "test")
# JPEG, PNG, WebP, BMP, GIF: how a file begins that has lost its suffix.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8")


def scan(root: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """List every photo: rows of (path relative to root, posix; class; split), and the paths of what is none.

    `train` must exist, `val` and `test` may.  A photo is a file of a class folder with an image's suffix, in any case,
    or without one of these but with an image's first bytes: `截屏2019-12-09下午7.49` has lost its `.png`.  Hidden files
    (macOS leaves `._x.jpg` behind), folders in class folders and files outside of them are none.

    Raises:
        RequestError: no folder `train` in `root`.
        DataError: a folder that cannot be listed, or a class folder of train without a photo.
    """
    if not (root / "train").is_dir():
        raise RequestError(
            f"dataset.root={root}: there is no folder 'train' in it\n"
            "the layout is train/<class>/<image> and test/<class>/<image>"
        )
    photos, others = [], []
    for split in SPLITS:
        if not (root / split).is_dir():
            continue
        for name, is_folder in _entries(root / split):
            if is_folder and not name.startswith("."):
                _scan_class(root, split, name, photos, others)
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
        raise DataError(f"{folder}: a class of train without a photo\nremove the folder or fill it")


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what a folder holds, sorted by name; links are followed."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror})\nmake it readable") from None


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_photo(folder: Path, file: str) -> bool:
    if file[file.rfind(".") :].lower() in IMAGE_SUFFIXES:
        return True
    try:
        with open(folder / file, "rb") as opened:
            return opened.read(8).startswith(_SIGNATURES)
    except OSError:
        return False
