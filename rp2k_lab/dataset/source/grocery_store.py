"""dataset=grocery_store: the Grocery Store Dataset (Klasson et al., WACV 2019, arXiv 1901.00711), 81 classes in shops.

`train.txt`, `val.txt` and `test.txt` list `path, fine label, coarse label`; `classes.csv` names both; a
coarse class, such as Apple, is the kind of several fine ones.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.folder_walk import unlisted
from rp2k_lab.dataset.options import SPLITS, Scan, Source
from rp2k_lab.plugins import register


@register("dataset")
class GroceryStore(Source):
    """The Grocery Store Dataset."""

    name: Literal["grocery_store"]
    fill_hint = "list photos in train.txt"

    def scan(self) -> Scan:
        """List the images (`scan_lists`)."""
        self.check_files()
        assert self.root is not None
        return scan_lists(self.root)


def scan_lists(root: Path) -> Scan:
    """List the images of the lists.  A split without its list is absent.

    Raises:
        RequestError: `root` has no classes.csv or train.txt.
        DataError: an unreadable file, a line that is not `path, label, label`, a label that classes.csv lacks, or an
            image listed twice.
    """
    import pandas as pd

    for needed in ("classes.csv", "train.txt"):
        if not (root / needed).is_file():
            raise RequestError(
                f"dataset.root={root}: has no file {needed}\n"
                "use the folder dataset/ of the Grocery Store Dataset's repository"
            )
    try:
        table = pd.read_csv(root / "classes.csv")
        names = dict(zip(table["Class ID (int)"], table["Class Name (str)"], strict=True))
        coarse = dict(zip(table["Class Name (str)"], table["Coarse Class Name (str)"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{root / 'classes.csv'}: no table with 'Class ID (int)', 'Class Name (str)' and 'Coarse Class Name (str)' "
            f"({type(error).__name__})\n"
            "use the one of the dataset's repository"
        ) from None
    lists = [(split, root / f"{split}.txt") for split in SPLITS]
    rows = [row for split, file in lists if file.is_file() for row in _read_list(file, split, names)]
    counts = Counter(path for path, _, _ in rows)
    if duplicates := [path for path, count in counts.items() if count > 1]:
        raise DataError(f"{root}: the lists name {duplicates[0]} twice\nremove one of the lines")
    images, other_files = unlisted(root, list(counts), [])
    return Scan(root, rows, other_files, labels_in_paths=True, unused_images=images, coarse_classes=coarse)


def _read_list(file: Path, split: str, names: dict[int, str]) -> list[tuple[str, str, str | None]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})\nuse the UTF-8 file of the dataset's repository") from None
    rows: list[tuple[str, str, str | None]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            path, fine, _ = (field.strip() for field in line.split(","))
            rows.append((path, names[int(fine)], split))
        except (ValueError, KeyError):
            raise DataError(
                f"{file}, line {number}: not 'path, fine label, coarse label' of classes.csv\n"
                "correct or remove the line"
            ) from None
    return rows
