"""Tables of an analysis, from predictions, features and measures.

`ErrorTables.cases` has one row for each image of the split, in the index's order:

- path, true, correct, top1…top5, p1…p5 as in a run's predictions.parquet (`metrics.predictions_table`); p_true
  (float32, probability of the given label); row (int, in the index); train_images (int) and group (head, medium, tail)
  of the true class;
- height, width (pixels), ratio (height / width), and brightness, contrast, sharpness, glare (float32,
  `photo_quality.measure`);
- class_measured, and <measure>_below and <measure>_above of these and of the ratio: how unusual the image is among the
  measured images of its class (`photo_quality.class_ranks`);
- lost_like (float32, for errors of val and test: fraction of recognized photos of the class that this one's blur and
  exposure lose, `photo_trial`; NaN: none is recognized);
- suspicion of the given label (float32, 0 to 1; NaN if the network was trained on the image), suggested (class or "");
- cause_<cause> (bool) for each cause, and cause, the main one, "" for correct predictions (`causes`);
- nearest (for errors: rows of the nearest training images in feature space) and nearest_distance (1 - cosine to the
  first; NaN if not computed).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rp2k_lab.analysis.accuracy_curves import accuracy_curves
from rp2k_lab.analysis.causes import add_causes, cause_table
from rp2k_lab.analysis.clusters import cluster_table, look_alike_clusters
from rp2k_lab.config.thresholds import Rules
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.metrics import Predictions, predictions_table


@dataclass(frozen=True)
class ErrorTables:
    """Tables of an analysis.

    Attributes:
        cases: see the module.
        classes: one row for each class: class, images (of the split), train_images, accuracy (NaN without images), low,
            high (Wilson, 95 %), most_confused_with (its most frequent wrong prediction or ""), confused_images (their
            number), cluster (of look-alikes, -1: none); map_x, map_y (0 to 1, NaN: none; from `Analysis.with_map`).
        clusters: from `clusters.cluster_table`.
        causes: from `causes.cause_table`; without `others`, if there is no catch-all class.
        curves: from `accuracy_curves.accuracy_curves`.
    """

    cases: pd.DataFrame
    classes: pd.DataFrame
    clusters: pd.DataFrame
    causes: pd.DataFrame
    curves: pd.DataFrame


def image_table(
    index: Index, rows: pd.DataFrame, predictions: Predictions, p_true: np.ndarray, measures: pd.DataFrame
) -> pd.DataFrame:
    """Return the cases' columns from path to the ranks of the measures.

    Args:
        rows: from `Index.split`.
        predictions, p_true (float32), measures (from `photo_quality.measure_images` and `class_ranks`): in the order
            of `rows`.
    """
    table, counts = predictions_table(predictions, rows[["path"]], index.classes), index.train_counts()
    return table.assign(
        p_true=p_true,
        row=rows["row"].to_numpy(),
        train_images=counts[predictions.labels],
        group=index.class_groups()[0][predictions.labels],
        height=rows["height"].to_numpy(),
        width=rows["width"].to_numpy(),
        ratio=(rows["height"] / rows["width"]).to_numpy(np.float32),
        **{name: measures[name].to_numpy() for name in measures},
    )


def analyze(
    images: pd.DataFrame,
    accuracies: pd.DataFrame,
    pairs: pd.DataFrame,
    typical: pd.DataFrame,
    rules: Rules,
    catch_all_class: str | None,
) -> ErrorTables:
    """Return all tables; the cases lack their nearest training images.

    Args:
        images: from `image_table`, with suspicion and suggested.
        accuracies: from `metrics.per_class`.
        pairs: from `causes.confused_pairs`.
        typical: from `photo_quality.typical_measures`.
    """
    cases = add_causes(images, pairs, typical, rules, catch_all_class)
    clusters = cluster_table(look_alike_clusters(pairs, catch_all_class), cases)
    table = class_table(accuracies, cases, clusters)
    causes = cause_table(cases)
    if catch_all_class is None:
        causes = causes[causes["cause"] != "others"].reset_index(drop=True)
    return ErrorTables(cases, table, clusters, causes, accuracy_curves(cases))


def class_table(accuracies: pd.DataFrame, cases: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """Return `ErrorTables.classes`.

    Args:
        accuracies: from `metrics.per_class`.
    """
    errors = cases.loc[~cases["correct"].to_numpy(bool), ["true", "top1"]]
    counts = errors.value_counts(sort=False).rename("images").reset_index()
    # The most frequent wrong prediction, ties by name.
    counts = counts.sort_values(["images", "top1"], ascending=[False, True]).drop_duplicates("true").set_index("true")
    number = {name: row.cluster for row in clusters.itertuples() for name in row.classes}
    table = accuracies[["class", "images", "train_images", "accuracy", "low", "high"]].copy()
    table["most_confused_with"] = table["class"].map(counts["top1"]).fillna("").astype(object)
    table["confused_images"] = table["class"].map(counts["images"]).fillna(0).astype(np.int64)
    table["cluster"] = table["class"].map(number).fillna(-1).astype(np.int64)
    return table


def add_nearest(cases: pd.DataFrame, errors: np.ndarray, rows: np.ndarray, distances: np.ndarray) -> pd.DataFrame:
    """Return the cases with columns nearest and nearest_distance.

    Args:
        errors: int (n,), positions of the cases with neighbors.
        rows: int (n, k), rows of the index, nearest first.
        distances: float32 (n, k).
    """
    nearest: list[list[int]] = [[] for _ in range(len(cases))]
    distance = np.full(len(cases), np.nan, np.float32)
    for case, neighbors in zip(errors.tolist(), rows.tolist(), strict=True):
        nearest[case] = neighbors
    if rows.shape[1]:
        distance[errors] = distances[:, 0]
    return cases.assign(nearest=nearest, nearest_distance=distance)
