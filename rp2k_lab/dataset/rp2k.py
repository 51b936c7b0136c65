"""RP2K's layout on disk: `<split>/<class name>/<image>` (arXiv 2006.12634).  The folder is only ever read."""

import os
from pathlib import Path

import pandas as pd

from rp2k_lab.errors import DataError, RequestError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
SPLITS = ("train", "val", "test")


def scan(root: Path) -> pd.DataFrame:
    """List every photo: columns path (relative, posix), class, split; `train` must exist, `val` and `test` may.

    A photo is a .jpg, .jpeg or .png, in any case; hidden files (macOS leaves `._x.jpg` behind) are none.

    Raises:
        RequestError: no folder `train` in `root`.
        DataError: a class folder of train without a photo.
    """
    if not (root / "train").is_dir():
        raise RequestError(
            f"dataset.root={root}: there is no folder 'train' in it\n"
            "the layout is train/<class>/<image> and test/<class>/<image>"
        )
    rows = [row for split in SPLITS if (root / split).is_dir() for row in _scan_split(root, split)]
    return pd.DataFrame(rows, columns=["path", "class", "split"])


def _scan_split(root: Path, split: str) -> list[tuple[str, str, str]]:
    rows = []
    for folder in sorted(entry.name for entry in os.scandir(root / split) if entry.is_dir()):
        photos = sorted(
            entry.name
            for entry in os.scandir(root / split / folder)
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        )
        if split == "train" and not photos:
            raise DataError(f"{root / split / folder}: a class of train without a photo\nremove the folder or fill it")
        rows += [(f"{split}/{folder}/{name}", folder, split) for name in photos]
    return rows
