"""Clusters of look-alike classes: some dozens of families to read in place of 2388² confusion cells."""

import numpy as np
import pandas as pd

# Small enough to look at; without a limit, a chain of pairs would join half of all classes.
MAX_CLASSES = 12


def look_alike_clusters(pairs: pd.DataFrame, catch_all_class: str | None, limit: int = MAX_CLASSES) -> list[list[str]]:
    """Return clusters of at most `limit` classes that look-alike pairs connect.

    Connected components by single linkage (Kruskal, Proc. AMS 7, 1956): pairs join in the order of how often they
    were confused (ties by name).  A pair that would make a cluster larger than `limit` is skipped.

    Args:
        pairs: columns first, second, confused, look_alike, from `causes.confused_pairs`.
        catch_all_class: has no common look and joins no cluster.

    Returns:
        Two or more names each, in arbitrary order.
    """
    alike = pairs[pairs["look_alike"] & (pairs["first"] != catch_all_class) & (pairs["second"] != catch_all_class)]
    alike = alike.sort_values(["confused", "first", "second"], ascending=[False, True, True])
    cluster: dict[str, list[str]] = {}
    for first, second in zip(alike["first"], alike["second"], strict=True):
        left, right = cluster.setdefault(first, [first]), cluster.setdefault(second, [second])
        if left is right or len(left) + len(right) > limit:
            continue
        left += right
        cluster |= dict.fromkeys(right, left)
    distinct = {id(names): names for names in cluster.values() if len(names) > 1}
    return list(distinct.values())


def cluster_table(clusters: list[list[str]], cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each cluster, most errors first.

    Args:
        cases: columns true, top1, correct.

    Returns:
        Columns cluster (number from 0), classes (list, by errors within the cluster, most first), images (of its
        classes), errors_within (images of one of its classes taken for another), share (errors_within / all errors;
        NaN without errors).
    """
    number = {name: i for i, names in enumerate(clusters) for name in names}
    true, top1 = (cases[column].map(number).fillna(-1).to_numpy(np.int64) for column in ("true", "top1"))
    wrong = ~cases["correct"].to_numpy(bool)
    within = wrong & (true >= 0) & (true == top1)
    images, errors = (np.bincount(true[rows], minlength=len(clusters)) for rows in (true >= 0, within))
    errors_of = pd.concat([cases.loc[within, "true"], cases.loc[within, "top1"]]).value_counts().to_dict()
    ordered = [sorted(names, key=lambda name: (-errors_of.get(name, 0), name)) for names in clusters]
    table = pd.DataFrame({"classes": ordered, "images": images, "errors_within": errors})
    table["share"] = table["errors_within"] / wrong.sum() if wrong.any() else np.nan
    table = table.sort_values("errors_within", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "cluster", np.arange(len(table)))
    return table
