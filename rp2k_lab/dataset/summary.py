"""What there is to know of a data set before training on it.  Pure functions on tables of photos.

A table of photos has the columns path, class, split (train, val, test), bytes, width, height and problem (None, or why
the photo cannot be read), as `list_photos` gives it.
"""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd

from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.shelf.distributions import RATIO_BINS

SPLITS = ("train", "val", "test")
RELATIONS = ("within a class", "across classes", "train and test", "train and val", "val and test")


def class_table(photos: pd.DataFrame) -> pd.DataFrame:
    """One row a class, most training photos first (ties by name): class, train, val, test, unreadable, group.

    Counts (int64) are of readable photos; unreadable ones of all splits are counted apart.  `group` is head, medium or
    tail as in `metrics.class_groups`; "" for a class without a training photo.
    """
    good = photos["problem"].isna()
    counts = pd.crosstab(photos["class"], photos["split"].where(good, "unreadable"))
    counts = counts.reindex(columns=[*SPLITS, "unreadable"], fill_value=0).astype("int64")
    table = counts.rename_axis(columns=None).reset_index()
    table = table.sort_values(["train", "class"], ascending=[False, True], ignore_index=True)
    groups = class_groups(table.loc[table["train"] > 0, "train"].to_numpy())[0]  # those come first
    table["group"] = [*groups, *[""] * (len(table) - len(groups))]
    return table


def missing_classes(classes: pd.DataFrame, splits: list[str]) -> dict[str, list[str]]:
    """Names of the classes without a readable photo in each of `splits`, from `class_table`."""
    return {split: sorted(classes.loc[classes[split] == 0, "class"]) for split in splits}


def ratio_counts(photos: pd.DataFrame) -> np.ndarray:
    """Photos per bin of 0.5 in height/width, as the published histogram has them, then 5 and more: int64 (11,)."""
    ratio = photos["height"] / photos["width"]
    return np.histogram(ratio, [*RATIO_BINS, np.inf])[0]


def copies_by_relation(copies: pd.DataFrame) -> pd.DataFrame:
    """What the copies mean: one row for each group and each of RELATIONS that it has.

    Args:
        copies: `duplicates.find_copies` with the photos' path, class and split.

    Returns:
        Columns relation, group, photos, exact (int64: as `photos`, of those with the same bytes), first and second (two
        such photos as index labels of `copies`, preferably of different bytes).  `photos` counts, within
        a class: those beyond the first of each class and split; across classes: those outside the group's most frequent
        class; else those of the later split, which is no longer independent of the earlier.
    """
    rows = []
    for group, members in _members(copies, "group").items():
        contents = [[photo for photo in members if photo[1] == key] for key in dict.fromkeys(m[1] for m in members)]
        for relation in RELATIONS:
            photos = _count(relation, members)
            if photos:
                exact = sum(_count(relation, same) for same in contents)
                rows.append((relation, group, photos, exact, *_example(relation, members)))
    return pd.DataFrame(rows, columns=["relation", "group", "photos", "exact", "first", "second"])


def _members(copies: pd.DataFrame, by: str) -> dict[int, list[tuple]]:
    """(index label, content, class, split) of the photos of each group."""
    members = defaultdict(list)
    columns = (copies[name].tolist() for name in (by, "content", "class", "split"))
    for label, group, *rest in zip(copies.index.tolist(), *columns, strict=True):
        members[group].append((label, *rest))
    return members


def _count(relation: str, photos: list[tuple]) -> int:
    if relation == "within a class":
        return len(photos) - len({photo[2:] for photo in photos})
    if relation == "across classes":
        return len(photos) - max(Counter(name for _, _, name, _ in photos).values())
    splits = Counter(photo[3] for photo in photos)
    earlier, later = relation.split(" and ")
    return splits[later] if splits[earlier] else 0


def _example(relation: str, photos: list[tuple]) -> tuple[int, int]:
    """Two photos that stand in the relation, preferably of different bytes."""
    for a in photos:
        partners = [b for b in photos if b is not a and _related(relation, a, b)]
        if partners:
            return a[0], next((b for b in partners if b[1] != a[1]), partners[0])[0]
    raise ValueError(f"no two photos are {relation}")


def _related(relation: str, a: tuple, b: tuple) -> bool:
    if relation == "within a class":
        return a[2:] == b[2:]
    if relation == "across classes":
        return a[2] != b[2]
    return [a[3], b[3]] == relation.split(" and ")
