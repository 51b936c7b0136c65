"""Look-alikes in clusters, so that confusion is read as some dozens of families and not as 2388² cells."""

import numpy as np
import pandas as pd

# A family that is looked at as a whole; a chain of pairs would join half of all classes into one.
MOST_CLASSES = 12


def look_alike_clusters(pairs: pd.DataFrame, others: str | None, most: int = MOST_CLASSES) -> list[list[str]]:
    """Classes that are joined by look-alike pairs, in clusters of at most `most`.

    Connected components by single linkage (Kruskal, Proc. AMS 7, 1956): pairs join in the order of how often they
    were confused (ties by name), and one that would make a cluster larger than `most` is left out.

    Args:
        pairs: columns first, second, confused, look_alike, of `causes.confused_pairs`.
        others: the catch-all class, which looks like nothing and joins no cluster.

    Returns:
        Two or more names each, in no order of meaning.
    """
    alike = pairs[pairs["look_alike"] & (pairs["first"] != others) & (pairs["second"] != others)]
    alike = alike.sort_values(["confused", "first", "second"], ascending=[False, True, True])
    cluster: dict[str, list[str]] = {}
    for first, second in zip(alike["first"], alike["second"], strict=True):
        ours, theirs = cluster.setdefault(first, [first]), cluster.setdefault(second, [second])
        if ours is theirs or len(ours) + len(theirs) > most:
            continue
        ours += theirs
        cluster |= dict.fromkeys(theirs, ours)
    distinct = {id(names): names for names in cluster.values() if len(names) > 1}
    return list(distinct.values())


def cluster_table(clusters: list[list[str]], cases: pd.DataFrame) -> pd.DataFrame:
    """One row a cluster, most errors first.

    Args:
        cases: columns true, top1, correct.

    Returns:
        Columns cluster (its number, from 0), classes (list, the one with the most errors within the cluster first),
        images (photos of its classes), errors_within (photos of one of its classes taken for another of them), share
        (errors_within / all errors; nan without errors).
    """
    number = {name: i for i, names in enumerate(clusters) for name in names}
    true, top1 = (cases[column].map(number).fillna(-1).to_numpy(np.int64) for column in ("true", "top1"))
    wrong = ~cases["correct"].to_numpy(bool)
    within = wrong & (true >= 0) & (true == top1)
    images, errors = (np.bincount(true[rows], minlength=len(clusters)) for rows in (true >= 0, within))
    taking_part = pd.concat([cases.loc[within, "true"], cases.loc[within, "top1"]]).value_counts().to_dict()
    ordered = [sorted(names, key=lambda name: (-taking_part.get(name, 0), name)) for names in clusters]
    table = pd.DataFrame({"classes": ordered, "images": images, "errors_within": errors})
    table["share"] = table["errors_within"] / wrong.sum() if wrong.any() else np.nan
    table = table.sort_values("errors_within", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "cluster", np.arange(len(table)))
    return table
