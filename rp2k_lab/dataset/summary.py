"""Summaries of a data set before training: classes, shapes, copies.  Pure functions on tables of images.

A table of images has the columns path, class, split (train, val, test), bytes, width, height and problem (why the image
cannot be read, or None), as in `Listing`.
"""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.options import SPLITS
from rp2k_lab.dataset.shelf.distributions import RATIO_BINS

RELATIONS = ("within a class", "across classes", "train and test", "train and val", "val and test")


def class_table(images: pd.DataFrame, limits: tuple[int, int] | None = None) -> pd.DataFrame:
    """Return a row per class, most training images first (ties by name): class, train, val, test, unreadable, group.

    The splits' counts (int64) are of readable images; `unreadable` counts those of all splits.  `group` is head, medium
    or tail (`class_groups` with `limits`); "" for a class without a training image.
    """
    readable = images["problem"].isna()
    counts = pd.crosstab(images["class"], images["split"].where(readable, "unreadable"))
    counts = counts.reindex(columns=[*SPLITS, "unreadable"], fill_value=0).astype("int64")
    table = counts.rename_axis(columns=None).reset_index()
    table = table.sort_values(["train", "class"], ascending=[False, True], ignore_index=True)
    groups = class_groups(table.loc[table["train"] > 0, "train"].to_numpy(), limits)[0]  # those come first
    table["group"] = [*groups, *[""] * (len(table) - len(groups))]
    return table


def missing_classes(classes: pd.DataFrame, splits: list[str]) -> dict[str, list[str]]:
    """Return the names of the classes without a readable image in each of `splits`, from `class_table`."""
    return {split: sorted(classes.loc[classes[split] == 0, "class"]) for split in splits}


def ratio_counts(images: pd.DataFrame) -> np.ndarray:
    """Return images per bin of 0.5 in height/width, the published histogram's, then 5 and more: int64 (11,)."""
    ratio = images["height"] / images["width"]
    return np.histogram(ratio, [*RATIO_BINS, np.inf])[0]


def copies_by_relation(copies: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each group of copies and each of RELATIONS that it has.

    Args:
        copies: `find_copies` with the images' path, class and split.

    Returns:
        Columns relation, group, photos, exact (int64: `photos` with the same bytes), first and second (an example, two
        index labels of `copies`, preferably of different bytes).  `photos` counts, within a class: those beyond the
        first of each class and split; across classes: those outside the group's most frequent class; else those of the
        later split, which is no longer independent of the earlier.
    """
    rows = []
    for group, members in _members(copies, "group").items():
        contents = [[image for image in members if image[1] == key] for key in dict.fromkeys(m[1] for m in members)]
        for relation in RELATIONS:
            count = _count(relation, members)
            if count:
                exact = sum(_count(relation, same) for same in contents)
                rows.append((relation, group, count, exact, *_example(relation, members)))
    return pd.DataFrame(rows, columns=["relation", "group", "photos", "exact", "first", "second"])


def _members(copies: pd.DataFrame, by: str) -> dict[int, list[tuple]]:
    """Return (index label, content, class, split) of the images of each group."""
    members = defaultdict(list)
    columns = (copies[name].tolist() for name in (by, "content", "class", "split"))
    for label, group, *rest in zip(copies.index.tolist(), *columns, strict=True):
        members[group].append((label, *rest))
    return members


def _count(relation: str, images: list[tuple]) -> int:
    if relation == "within a class":
        return len(images) - len({image[2:] for image in images})
    if relation == "across classes":
        return len(images) - max(Counter(name for _, _, name, _ in images).values())
    splits = Counter(image[3] for image in images)
    earlier, later = relation.split(" and ")
    return splits[later] if splits[earlier] else 0


def _example(relation: str, images: list[tuple]) -> tuple[int, int]:
    """Return the labels of two images with the relation, preferably of different bytes."""
    for a in images:
        partners = [b for b in images if b is not a and _related(relation, a, b)]
        if partners:
            return a[0], next((b for b in partners if b[1] != a[1]), partners[0])[0]
    raise ValueError(f"no two images are {relation}")


def _related(relation: str, a: tuple, b: tuple) -> bool:
    if relation == "within a class":
        return a[2:] == b[2:]
    if relation == "across classes":
        return a[2] != b[2]
    return [a[3], b[3]] == relation.split(" and ")
