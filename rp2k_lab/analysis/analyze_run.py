"""Error tables and suspected labels of one run on one split."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rp2k_lab.analysis.causes import confused_pairs
from rp2k_lab.analysis.class_map import map_positions
from rp2k_lab.analysis.label_issues import LabelIssues, find_label_issues, find_label_issues_in_top
from rp2k_lab.analysis.neighbors import class_means, nearest
from rp2k_lab.analysis.photo_trial import lost_fractions
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.analysis.tables import ErrorTables, add_nearest, analyze, image_table
from rp2k_lab.evaluation.metrics import Predictions, per_class, top_k

NEAREST = 3  # training images beside an error


@dataclass(frozen=True)
class SplitMeasures:
    """The analyzed images and their measures, the same for every run.

    Attributes:
        rows: from `Index.split`, all of the split or a part of it.
        images: from `photo_quality.measure_images` and `class_ranks`, in the order of `rows`.
        typical: from `photo_quality.typical_measures`.
    """

    rows: pd.DataFrame
    images: pd.DataFrame
    typical: pd.DataFrame


@dataclass(frozen=True)
class Analysis:
    """Error tables and label issues of one run.

    Attributes:
        tables: of the images.
        labels: issues of their labels, in the same order; None if the network was trained on the images.
        means: from `neighbors.class_means`.
    """

    tables: ErrorTables
    labels: LabelIssues | None
    means: np.ndarray

    def with_map(self) -> ErrorTables:
        """Return the tables with the places of the classes on a map: columns map_x and map_y of `classes`."""
        places = map_positions(self.means)
        return replace(self.tables, classes=self.tables.classes.assign(map_x=places[:, 0], map_y=places[:, 1]))


def analyze_run(subject: Subject, measured: SplitMeasures, held_out: np.ndarray | None) -> Analysis:
    """Return the error tables and label issues of one run.

    Args:
        held_out: from `cross_validation.held_out_probabilities`, used on train instead of the run's network; None: use
            the run's network.
    """
    config, index, rows = subject.config, subject.index, measured.rows
    split, train, given = config.task.analyzed_split, index.split("train"), rows["label"].to_numpy(np.int32)
    training = subject.features("train")
    features = training if split == "train" else subject.features(split)
    positions = index.split(split)["row"].searchsorted(rows["row"])
    if held_out is None:
        predictions, p_true = summarize(subject.probabilities(features), given)
        labels = None if split == "train" else find_label_issues_in_top(predictions, len(index.classes))
    else:
        parts = np.array_split(positions, max(1, len(positions) // config.batch_size))
        predictions, p_true = summarize((np.asarray(held_out[part]) for part in parts), given)
        labels = find_label_issues(train["label"].to_numpy(np.int32), held_out).at(positions)
    images = image_table(index, rows, predictions, p_true, measured.images)
    images = images.assign(
        suspicion=np.float32(np.nan) if labels is None else labels.suspicion,
        suggested="" if labels is None else labels.suggested_names(index.classes),
    )
    if held_out is None and split != "train" and config.task.photo_lost:  # a network recognizes what it was trained on
        labeled = images.assign(label=given)
        lost = lost_fractions(subject.predictor(), index.root, labeled, config.batch_size, subject.check)
        images = images.assign(lost_like=lost)
    means = class_means(training, train["label"].to_numpy(), len(index.classes))
    pairs = confused_pairs(images, index.classes, means, config.task)
    accuracies = per_class(predictions, index.classes, index.train_counts())
    tables = analyze(images, accuracies, pairs, measured.typical, config.task, config.dataset.catch_all_class)
    errors = np.flatnonzero(~tables.cases["correct"].to_numpy(bool))
    itself = positions[errors] if split == "train" else None
    neighbors, distances = nearest(features[positions[errors]], training, NEAREST, itself, subject.check)
    cases = add_nearest(tables.cases, errors, train["row"].to_numpy()[neighbors], distances)
    return Analysis(replace(tables, cases=cases), labels, means)


def summarize(probabilities: Iterable[np.ndarray], labels: np.ndarray) -> tuple[Predictions, np.ndarray]:
    """Return (the five most probable classes; the probability of each given label, float32 (images,)).

    Args:
        probabilities: batches of float32 (n, classes).
        labels: int32 (images,), in the order of the batches.
    """
    tops, given, first = [], [], 0
    for part in probabilities:
        tops.append(top_k(part))
        given.append(part[np.arange(len(part)), labels[first : first + len(part)]])
        first += len(part)
    top_labels, top_probabilities = map(np.concatenate, zip(*tops, strict=True))
    return Predictions(labels, top_labels, top_probabilities), np.concatenate(given)
