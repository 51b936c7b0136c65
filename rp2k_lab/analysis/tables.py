"""From predictions, features and measures to the tables of an analysis.

`ErrorTables.cases` has a row a photo of the split, in the index's order:

- path, true, correct, top1…top5, p1…p5 as in a run's predictions.parquet (`metrics.predictions_table`); p_true
  (float32, probability of the given label); row (int, the index's); train_images (int) and group (head, medium, tail)
  of the true class;
- height, width (pixels), ratio (height / width), and brightness, contrast, sharpness, glare (float32, `photo.measure`);
- suspicion (float32, 0 to 1, that the given label is wrong; nan where the network was trained on the photo), suggested
  (the label to give instead, or "");
- cause_<cause> (bool) for each cause, and cause, the main one, "" where correct (`causes`);
- nearest (list of rows of the index: the training photos nearest in feature space, for errors alone) and
  nearest_distance (1 - cosine to the first of them; nan where not computed).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.analysis.accuracy_curves import accuracy_curves
from rp2k_lab.analysis.causes import add_causes, cause_table, confused_pairs
from rp2k_lab.analysis.clusters import cluster_table, look_alike_clusters
from rp2k_lab.config.thresholds import Rules
from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.metrics import Predictions, per_class, predictions_table


@dataclass(frozen=True)
class ErrorTables:
    """What an analysis found.

    Attributes:
        cases: see the module.
        classes: a row a class: class, images (of the split), train_images, accuracy (nan without images), low, high
            (Wilson, 95 %), most_confused_with (the class that its photos are most often taken for, or ""),
            confused_images (how many), cluster (of look-alikes, -1: none).
        clusters: as of `clusters.cluster_table`.
        causes: as of `causes.cause_table`.
        curves: as of `curves.accuracy_curves`.
    """

    cases: pd.DataFrame
    classes: pd.DataFrame
    clusters: pd.DataFrame
    causes: pd.DataFrame
    curves: pd.DataFrame


def photo_table(
    index: Index, rows: pd.DataFrame, predictions: Predictions, p_true: np.ndarray, measures: pd.DataFrame
) -> pd.DataFrame:
    """The cases without what is found out about them: columns path to glare.

    Args:
        rows: of `Index.split`.
        predictions, p_true (float32), measures (of `photo.measure_photos`): in the order of `rows`.
    """
    table, counts = predictions_table(predictions, rows["path"], index.classes), index.train_counts()
    return table.assign(
        p_true=p_true,
        row=rows["row"].to_numpy(),
        train_images=counts[predictions.labels],
        group=class_groups(counts)[0][predictions.labels],
        height=rows["height"].to_numpy(),
        width=rows["width"].to_numpy(),
        ratio=(rows["height"] / rows["width"]).to_numpy(np.float32),
        **{name: measures[name].to_numpy() for name in measures},
    )


def analyze(
    photos: pd.DataFrame,
    predictions: Predictions,
    classes: list[str],
    train_counts: np.ndarray,
    means: np.ndarray,
    usual: pd.DataFrame,
    rules: Rules,
    others: str | None,
) -> ErrorTables:
    """All tables, the cases without their nearest training photos.

    Args:
        photos: of `photo_table`, with suspicion and suggested.
        classes: names in the labels' order.
        train_counts: int (classes,).
        means: of `neighbors.class_means`.
        usual: of `photo.usual_measures`.
        others: the catch-all class, or None.
    """
    pairs = confused_pairs(photos, classes, means, rules)
    cases = add_causes(photos, pairs, usual, rules, others)
    clusters = cluster_table(look_alike_clusters(pairs, others), cases)
    table = class_table(per_class(predictions, classes, train_counts), cases, clusters)
    return ErrorTables(cases, table, clusters, cause_table(cases), accuracy_curves(cases))


def class_table(accuracies: pd.DataFrame, cases: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """`ErrorTables.classes`.

    Args:
        accuracies: of `metrics.per_class`.
    """
    errors = cases.loc[~cases["correct"].to_numpy(bool), ["true", "top1"]]
    counts = errors.value_counts(sort=False).rename("images").reset_index()
    # The most frequent; of equals the first by name.
    counts = counts.sort_values(["images", "top1"], ascending=[False, True]).drop_duplicates("true").set_index("true")
    number = {name: row.cluster for row in clusters.itertuples() for name in row.classes}
    table = accuracies[["class", "images", "train_images", "accuracy", "low", "high"]].copy()
    table["most_confused_with"] = table["class"].map(counts["top1"]).fillna("").astype(object)
    table["confused_images"] = table["class"].map(counts["images"]).fillna(0).astype(np.int64)
    table["cluster"] = table["class"].map(number).fillna(-1).astype(np.int64)
    return table


def add_nearest(cases: pd.DataFrame, where: np.ndarray, positions: np.ndarray, distances: np.ndarray) -> pd.DataFrame:
    """The cases with columns nearest and nearest_distance.

    Args:
        where: int (n,), the cases' positions that it was computed for.
        positions: int (n, k), rows of the index's table, the nearest first.
        distances: float32 (n, k).
    """
    lists: list[list[int]] = [[] for _ in range(len(cases))]
    first = np.full(len(cases), np.nan, np.float32)
    for case, rows in zip(where.tolist(), positions.tolist(), strict=True):
        lists[case] = rows
    if positions.shape[1]:
        first[where] = distances[:, 0]
    return cases.assign(nearest=lists, nearest_distance=first)
