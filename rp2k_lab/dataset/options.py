"""Option classes of data sets, and what they list.

A data set is a class in `rp2k_lab/dataset/source/` (or in an installed package) with a method `scan`, which lists the
images without reading them.  Everything else is common: sizes, problems, splits, crops, normalization.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import AbsolutePath, Count, Fraction, Group, Natural, NonNegativeFloat, PositiveFloat, Rate
from rp2k_lab.core.text import escape_controls

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")
# Names of splits in folders and tables, in lower case.
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_TITLE_LENGTH = 40

Mean = tuple[Fraction, Fraction, Fraction]
Std = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


@dataclass(frozen=True)
class Places:
    """Where lists name the images, for messages: `labels.csv, line 7`.

    Attributes:
        files: the lists, each with its first image's position.
        unit: what `numbers` count: line, row or annotation.
        numbers: of each image.
    """

    files: Sequence[tuple[Path, int]]
    unit: str
    numbers: Sequence[int | str]

    def name(self, position: int) -> str:
        """Return the place of an image."""
        file = next(file for file, first in reversed(self.files) if first <= position)
        return f"{escape_controls(file)}, {self.unit} {self.numbers[position]}"


@dataclass(frozen=True)
class Scan:
    """The images of a data set, listed without opening them.

    Attributes:
        root: the folder that paths are relative to.
        images: (path, class, split) of each image; the path is posix, relative to `root` or absolute; the split is
            train, val, test, or None where `OwnPhotos` draws it.
        other_files: paths of files that are no images; of folders that are not entered, with a slash at their end.
        groups: name of the track, shop or series of each image, "" for none; a draw of val keeps its members together.
            None: no groups.
        boxes: float64 (images, 4), x, y, width and height of a crop [pixels of the upright image]; NaN: the whole
            image.  A box may reach beyond the image.  None: no crops.
        sizes: float64 (images, 2), width and height of each image as its list gives them; NaN: not given.  A warning
            tells of other sizes, since boxes of a resized or turned image are wrong.  None: not given.
        margin: fraction of a box's side that is added on each side, within the image.
        places: where a list names each image; None: it comes from a folder.
        labels_in_paths: whether the path decides the class; otherwise the classes are part of the data's fingerprint.
        notes: lines for the log.
        unused_images: paths of images that belong to no class.
        coarse_classes: each class's kind of product, for a coarse accuracy; None: the data set has no kinds.
    """

    root: Path
    images: list[tuple[str, str, str | None]]
    other_files: list[str]
    groups: list[str] | None = None
    boxes: "np.ndarray | None" = None
    sizes: "np.ndarray | None" = None
    margin: float = 0.0
    places: Places | None = None
    labels_in_paths: bool = False
    notes: Sequence[str] = ()
    unused_images: Sequence[str] = ()
    coarse_classes: Mapping[str, str] | None = None


class Source(Group):
    """A data set: its folder, its normalization, and how train is split and sampled.

    Attributes:
        file_keys: keys that name files and folders; they differ between machines.
        needs_root: whether `root` must be given.
        long_tail_limits: training images of the largest class of `tail` and the smallest of `head`, exclusive; None:
            `class_groups` ranks the classes.
        compared_with_rp2k: whether pages show RP2K's published figures beside the data's.
        fill_hint: how to add training images.
    """

    if TYPE_CHECKING:
        name: str  # each choice declares its own

    root: AbsolutePath | None = Field(description="folder of the dataset; null (shelf only): drawn once under data/")
    mean: Mean | None = Field(
        strict=False, description="mean of R, G and B over train, after resizing (0 to 1); null: measured once"
    )
    std: Std | None = Field(
        strict=False,
        description="standard deviation of R, G and B over train, after resizing (0 to 1); null: measured once",
    )
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="fraction of train held out as val, stratified; not used if the dataset has its own val"
    )
    val_seed: Natural = Field(description="seed of the held-out part; separate from `seed`, so that runs share one val")
    catch_all_class: str | None = Field(description="name of the catch-all class; null: none")
    drop_catch_all: bool = Field(description="true: leave the catch-all class out of every split")
    min_images_per_class: Count = Field(
        description="smallest number of training images of a class; smaller classes are left out of every split"
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="fraction of each class's training images to use; a smaller one is a subset; val is unchanged"
    )
    fraction_seed: Natural = Field(description="seed of the subset that `fraction` selects; separate from `seed`")
    fold: str | None = Field(
        description="i/k: train without the i-th of k stratified parts, as folds of task=errors; null: all of train"
    )
    relabel: AbsolutePath | None = Field(
        description="reviewed label errors to fix in train: .csv with path, given, suggested[, decision]; null: none"
    )
    sampler: Literal["uniform", "class_balanced"] = Field(
        description="sampling of training images; class_balanced: every class equally often"
    )
    on_bad_image: Literal["error", "skip"] = Field(
        description="unreadable images; error: end the run; skip: list and leave out (decodes every image once)"
    )
    cache_gb: NonNegativeFloat = Field(
        description="largest size of the cache of resized images under data/cache [10⁹ bytes]; 0: no cache"
    )

    file_keys: ClassVar[tuple[str, ...]] = ("root",)
    needs_root: ClassVar[bool] = True
    long_tail_limits: ClassVar[tuple[int, int] | None] = None
    compared_with_rp2k: ClassVar[bool] = False
    fill_hint: ClassVar[str] = "put photos into train/<class>/"

    @field_validator("fold")
    @classmethod
    def _check_fold(cls, fold):
        if fold is not None:
            match = re.fullmatch(r"(\d+)/(\d+)", fold)
            if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
                raise ValueError("needs i/k with 1 <= i <= k and k >= 2, for example 1/3")
        return fold

    @model_validator(mode="after")
    def _check_dropped_class(self):
        if self.drop_catch_all and self.catch_all_class is None:
            raise RequestError(
                f"dataset.drop_catch_all=true: {self.name} has no catch-all class\nadd dataset.catch_all_class=<class>"
            )
        return self

    @property
    def title(self) -> str:
        """Name of the data for people: in run names, on pages and in log lines."""
        return self.name

    def check_files(self) -> None:
        """Check that the files and folders of the request exist.

        Raises:
            RequestError: one is not given or does not exist.
        """
        if self.root is None and self.needs_root:
            raise RequestError(f"dataset.root: {self.name} needs its folder\nadd dataset.root=<folder>")
        if self.root is not None and not self.root.is_dir():
            raise RequestError(f"dataset.root={escape_controls(self.root)}: there is no such folder")
        if self.relabel is not None and not self.relabel.is_file():
            raise RequestError(f"dataset.relabel={escape_controls(self.relabel)}: there is no such file")

    def find_root(self) -> Path | None:
        """Return the folder of the images if it is there; nothing is drawn.

        Raises: as `scan`.
        """
        return self.scan().root

    @abstractmethod
    def scan(self) -> Scan:
        """List the images without opening them.

        Raises:
            RequestError: the files have another layout than the choice reads.
            DataError: an unreadable folder or list, or contradictions in it.
        """


class OwnPhotos(Source):
    """Photos that may lack a split: test and val are drawn, stratified and seeded, unless they are given."""

    test_fraction: Rate = Field(
        description="fraction of the photos without a split drawn as test, stratified; 0: no test; not used if the "
        "photos have a test split"
    )
    test_seed: Natural = Field(description="seed of the drawn test; separate from `val_seed`, so that test stays")


def relative_paths(root: Path, paths: Sequence[str]) -> list[str]:
    """Return paths without `./` and `//`, relative to the root where they lie below it."""
    prefix = f"{root}/"
    plain = [str(Path(path)) if "//" in path or "./" in path else path for path in paths]
    return [path.removeprefix(prefix) for path in plain]


def title_of(folder: Path, list_file: Path | None = None) -> str:
    """Return the names of a folder and a list as part of a run's name: letters and digits of any script, `-_.`.

    A folder that is called like a split has its parent's name, too.
    """
    names = [folder.parent.name] if folder.name.lower() in SPLIT_NAMES else []
    names += [folder.name] + ([list_file.stem] if list_file else [])
    return re.sub(r"[^\w.-]+", "-", "-".join(names))[:_TITLE_LENGTH].strip("-.") or "photos"
