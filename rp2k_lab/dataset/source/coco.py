"""dataset=coco: crops of photos, from boxes in COCO's format (Lin et al., ECCV 2014, arXiv 1405.0312)."""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.options import AbsolutePath, NonNegativeFloat
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.options import OwnPhotos, Places, Scan, relative_paths, title_of
from rp2k_lab.plugins import register

_FORM = "use a COCO file with the lists images, annotations and categories"


@register("dataset")
class Coco(OwnPhotos):
    """Boxes in photos: each is a crop, its category is the class.  Coordinates are pixels of the upright photo."""

    name: Literal["coco"]
    annotations: AbsolutePath | None = Field(
        description="COCO file (.json) with boxes; with val_annotations or test_annotations, those of train"
    )
    root: AbsolutePath | None = Field(description="folder of the photos; null: the folder of each COCO file")
    val_annotations: AbsolutePath | None = Field(description="COCO file of val; null: val is drawn")
    val_root: AbsolutePath | None = Field(description="folder of the photos of val; null: like root")
    test_annotations: AbsolutePath | None = Field(
        description="COCO file of test; null: test is drawn, or absent if val_annotations is given"
    )
    test_root: AbsolutePath | None = Field(description="folder of the photos of test; null: like root")
    margin: NonNegativeFloat = Field(
        description="fraction of a box's side that is added on each side, within the photo; 0: the box alone"
    )
    group_by_photo: bool = Field(description="true: the crops of one photo stay together when val or test is drawn")
    needs_root = False
    file_keys = ("annotations", "root", "val_annotations", "val_root", "test_annotations", "test_root")
    fill_hint = "annotate photos in dataset.annotations"

    @property
    def title(self) -> str:
        """The names of the photos' folder and of the COCO file."""
        if self.annotations is None:
            return self.name
        return title_of(self.root or self.annotations.parent, self.annotations)

    def check_files(self) -> None:
        """Check that the COCO files and the folders exist.

        Raises:
            RequestError: one is not given or does not exist.
        """
        if self.annotations is None:
            raise RequestError("dataset.annotations: coco needs its file\nadd dataset.annotations=<name>.json")
        for split in ("", "val_", "test_"):
            file, root = getattr(self, f"{split}annotations"), getattr(self, f"{split}root")
            if file is not None and not file.is_file():
                raise RequestError(f"dataset.{split}annotations={escape_controls(file)}: there is no such file")
            if root is not None and not root.is_dir():
                raise RequestError(f"dataset.{split}root={escape_controls(root)}: there is no such folder")
            if root is not None and file is None:
                raise RequestError(
                    f"dataset.{split}root={escape_controls(root)}: has no effect without dataset.{split}annotations\n"
                    f"add dataset.{split}annotations=<name>.json"
                )
        super().check_files()

    def scan(self) -> Scan:
        """List the boxes.

        Raises:
            DataError: a file is no COCO file, or an annotation names no photo or category, or has no four numbers.
        """
        import numpy as np

        self.check_files()
        assert self.annotations is not None
        files = [CocoFile(self.annotations, self.root or self.annotations.parent)]
        splits: list[str | None] = [None]
        for split, file, root in (
            ("val", self.val_annotations, self.val_root),
            ("test", self.test_annotations, self.test_root),
        ):
            if file is not None:
                files.append(CocoFile(file, root or self.root or file.parent))
                splits = ["train", *splits[1:], split]
        root = Path(os.path.commonpath([file.root for file in files]))
        images: list[tuple[str, str, str | None]] = []
        starts = []
        for file, split in zip(files, splits, strict=True):
            starts.append((file.file, len(images)))
            below = "" if file.root == root else f"{file.root.relative_to(root).as_posix()}/"
            paths = relative_paths(root, [path if path.startswith("/") else below + path for path in file.paths])
            images += [(path, name, split) for path, name in zip(paths, file.classes, strict=True)]
        return Scan(
            root,
            images,
            [],
            groups=[path for path, _, _ in images] if self.group_by_photo else None,
            boxes=np.array([box for file in files for box in file.boxes], np.float64).reshape(-1, 4),
            sizes=np.array([size for file in files for size in file.sizes], np.float64).reshape(-1, 2),
            margin=self.margin,
            places=Places(starts, "annotation", [number for file in files for number in file.numbers]),
            notes=[note for file in files for note in file.notes],
        )


class CocoFile:
    """The boxes of a COCO file.

    Crowd regions and boxes listed twice with the same category are left out.

    Attributes:
        file, root: the file and the folder of its photos.
        paths, classes, boxes, sizes, numbers: of each box: `file_name`, category, (x, y, width, height), the photo's
            (width, height) or NaN, and annotation id.
        notes: what is left out.

    Raises:
        DataError: see `Coco.scan`.
    """

    def __init__(self, file: Path, root: Path):
        self.file, self.root = file, root
        content = _load(file)
        photos = self._names(content["images"], "file_name", "photo")
        categories = self._names(content["categories"], "name", "category")
        annotations = content["annotations"]
        self._refuse([a for a in annotations if "id" not in a or "image_id" not in a], "has no id or image_id", _FORM)
        crowds = [a for a in annotations if a.get("iscrowd")]
        annotations = [a for a in annotations if not a.get("iscrowd")]
        hint = "correct or remove the annotation"
        for key, known, what in (("image_id", photos, "photo"), ("category_id", categories, "category")):
            unknown = [a for a in annotations if not isinstance(a.get(key), (int, str)) or a[key] not in known]
            first = escape_controls(f"{unknown[0].get(key)}") if unknown else ""
            self._refuse(unknown, f"{key}={first} is no {what} of the file", hint)
        self._refuse([a for a in annotations if not _is_box(a.get("bbox"))], "bbox is not four numbers", hint)
        unique = {(a["image_id"], a["category_id"], tuple(a["bbox"])): a for a in reversed(annotations)}
        kept = list(reversed(unique.values()))
        used = Counter(categories[number] for number in {a["category_id"] for a in kept})
        if repeated := [name for name, count in used.items() if count > 1]:
            raise DataError(
                f"{escape_controls(file)}: two categories are called {escape_controls(repeated[0])}\nrename one of them"
            )
        self.paths = [photos[a["image_id"]] for a in kept]
        self.classes = [categories[a["category_id"]] for a in kept]
        self.boxes = [a["bbox"] for a in kept]
        sizes = {photo["id"]: _size(photo) for photo in content["images"]}
        self.sizes = [sizes[a["image_id"]] for a in kept]
        self.numbers = [a["id"] for a in kept]
        counts = {
            "crowd regions": len(crowds),
            "boxes listed twice": len(annotations) - len(kept),
            "photos without a box": len(photos.keys() - {a["image_id"] for a in kept}),
        }
        self.notes = [f"{n} {what} of {escape_controls(file.name)} are left out" for what, n in counts.items() if n]

    def _names(self, entries: list[dict[str, Any]], key: str, what: str) -> dict[Any, str]:
        """Return id to name of photos or categories."""
        names = {}
        for entry in entries:
            name = entry.get(key)
            if not isinstance(entry.get("id"), (int, str)) or not isinstance(name, str) or not name.strip():
                raise DataError(f"{escape_controls(self.file)}: a {what} has no id or no {key}\n{_FORM}")
            if entry["id"] in names:
                number = escape_controls(f"{entry['id']}")
                raise DataError(f"{escape_controls(self.file)}: a second {what} has id {number}\nremove one of them")
            names[entry["id"]] = name
        return names

    def _refuse(self, wrong: list[dict[str, Any]], reason: str, hint: str) -> None:
        """Raise DataError for the first wrong annotation, with the number of others."""
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            place = f"{escape_controls(self.file)}, annotation {escape_controls(wrong[0].get('id', '?'))}"
            raise DataError(f"{place}: {reason}{more}\n{hint}")


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the three lists of a COCO file.

    Raises:
        DataError: it is no such file.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise DataError(f"{escape_controls(file)}: cannot be read as JSON ({error})\n{_FORM}") from None
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(each, list) and all(isinstance(entry, dict) for entry in each) for each in lists):
        raise DataError(f"{escape_controls(file)}: is no COCO file\n{_FORM}")
    return content


def _size(photo: dict[str, Any]) -> tuple[float, float]:
    """Return the width and height that a COCO file gives for a photo, or NaN."""
    width, height = photo.get("width"), photo.get("height")
    if isinstance(width, (int, float)) and isinstance(height, (int, float)):
        return float(width), float(height)
    return math.nan, math.nan


def _is_box(value: Any) -> bool:
    numbers = value if isinstance(value, list) else []
    return len(numbers) == 4 and all(type(n) in (int, float) and math.isfinite(n) for n in numbers)
