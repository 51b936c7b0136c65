"""Sets of photos for the tables of new products: their class splits, and the networks that describe them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from extension_features import KEPT, Photos, all_photos, photos_by, projected, train_on, with_brand

from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.enrollment import heads
from rp2k_lab.enrollment.protocol import Base, ClassSplit, build_base, class_folds, split_within_brands

SPLITS = 5
RESNET = ["dataset.cache_gb=1", "model=resnet18", "model.width_multiplier=0.25", "size=48", "crop_ratio=0.875",
          "aug.crop=[0.25,1.0]", "epochs=8"]  # fmt: skip
LITE0 = ["model=efficientnet_lite0", "model.pretrained=imagenet", "size=224", "batch_size=32"]
# Stretching wins on val of GroZi, letterbox on val of the embedded photos: experiments/resize.
GROZI, SHELF = ["batch_size=64", "resize=stretch"], ["batch_size=32"]
# The published margin (0.5 at scale 64) is for thousands of classes and long trainings; this one is stated, not tuned,
# and rises over half of the epochs.
MARGIN = ["model.head_scale=30", "model.head_margin=0.3", "model.head_margin_schedule=linear",
          "model.head_margin_epochs=4"]  # fmt: skip
TRAINED_HEADS = {
    "linear": [],
    "cosine": ["model.head=cosine"],
    "arcface": ["model.head=arcface", *MARGIN],
    "subcenter_arcface": ["model.head=subcenter_arcface", *MARGIN],
}
# Penalties.  Ridge: choices.csv; logistic: the best of 1e-5, 1e-4 and 1e-3 on val of two class splits of GroZi.
RIDGE, LOGISTIC = 0.1, 1e-5


class Name(NamedTuple):
    """A training: set of photos, trained head, class split, which is the seed, too."""

    photos: str
    head: str
    split: int

    def __str__(self):
        return f"{self.photos}_{self.head}_{self.split}"


@dataclass(frozen=True)
class Division:
    """A set of photos and its class split, with what a network says of them.

    Attributes:
        photos: with the features of the network that was trained on the old classes.
        names: of all classes.
        classes: positions in `names`.
    """

    photos: Photos
    names: list[str]
    classes: ClassSplit

    def base(self, asked: str = "test") -> Base:
        """Return the images of the protocol.

        Args:
            asked: split whose images are asked: test, or val to choose settings.
        """
        labels = pd.Index(self.names).get_indexer(self.photos.table["class"])
        splits = self.photos.table["split"].to_numpy(str)
        base = build_base(self.photos.features, labels, splits, self.classes)
        if asked == "test":
            return base
        renamed = np.where(splits == asked, "test", np.where(splits == "test", "not asked", splits))
        return replace(base, test=build_base(self.photos.features, labels, renamed, self.classes).test)

    def head(self, base: Base) -> heads.Linear:
        """Return the trained head; where there is none (a pretrained network), logistic regression on train."""
        if self.photos.logits is None:
            return heads.fit_logistic(base.train, LOGISTIC)
        return heads.linear_of(self.photos.features, self.photos.logits)


def shelf(split: int, head: str = "linear") -> Division:
    """Return the embedded photos of a catalog, a different one for each split; new products have look-alikes."""
    index = all_photos(["dataset=shelf", f"dataset.seed={split}"])
    table = with_brand(index)
    names = sorted(table["class"].unique())
    brands = table.groupby("class")["brand"].first().loc[names].tolist()
    photos = table[table["split"] == "train"].groupby("class").size().loc[names].to_numpy()
    classes = split_within_brands(brands, photos >= 20, new=8, unknown=4, seed=split)
    old = [names[label] for label in classes.old]
    return Division(trained(index, table, old, [*RESNET, *SHELF], Name("shelf", head, split)), names, classes)


def grozi(folder: Path, split: int, head: str = "linear") -> Division:
    """Return GroZi-120 with a ResNet-18 of quarter width, trained on the old classes of a split."""
    index = all_photos(grozi_keys(folder))
    table = with_brand(index)
    names = sorted(table["class"].unique())
    classes = class_folds(len(names), SPLITS)[split]
    old = [names[label] for label in classes.old]
    return Division(trained(index, table, old, [*RESNET, *GROZI], Name("grozi", head, split)), names, classes)


def grozi_frozen(folder: Path, split: int) -> Division:
    """Return GroZi-120 with the ImageNet features of EfficientNet-Lite0, the same for each split."""
    keys = grozi_keys(folder)
    index = all_photos(keys)
    table = with_brand(index)
    names = sorted(table["class"].unique())
    photos = photos_by(index, table, None, [*keys, *LITE0, "resize=stretch"], "grozi_lite0")
    return Division(photos, names, class_folds(len(names), SPLITS)[split])


def grozi_projected(folder: Path, split: int, head: str) -> Division:
    """Return GroZi-120 with a projection of the frozen features, trained with a head on the old classes."""
    frozen = grozi_frozen(folder, split)
    old = [frozen.names[label] for label in frozen.classes.old]
    keys = ["batch_size=64", "epochs=20", *TRAINED_HEADS[head], f"seed={split}"]
    keys = [key.replace("head_margin_epochs=4", "head_margin_epochs=10") for key in keys]
    return replace(frozen, photos=projected(frozen.photos, old, keys, str(Name("grozi_frozen", head, split))))


def grozi_keys(folder: Path) -> list[str]:
    """Return the keys of GroZi-120, see experiments/grozi120/README.md."""
    return ["dataset=table", f"dataset.table={folder / 'index.csv'}", "dataset.group_columns=[label,scene]"]


def trained(index: Index, table: pd.DataFrame, old: list[str], overrides: list[str], name: Name) -> Photos:
    """Return the photos with the features of a training on the old classes, which is run once."""
    record, text = KEPT / f"{name}.run", str(name)
    if not record.is_file():
        run = train_on(index, table, old, [*overrides, *TRAINED_HEADS[name.head], f"seed={name.split}"], text)
        record.write_text(run)
    return photos_by(index, table, record.read_text(), [], text)
