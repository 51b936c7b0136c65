"""Tables of an analysis, on a few images and at RP2K's size."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.accuracy_curves import MEASURES
from rp2k_lab.analysis.causes import CAUSES, confused_pairs
from rp2k_lab.analysis.neighbors import class_means, nearest
from rp2k_lab.analysis.tables import add_nearest, analyze, image_table
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metrics import Predictions, per_class, predictions_table
from tests.helpers.error_cases import GOOD_IMAGE, RULES, predictions, typical


def build_index(labels, classes: list[str]) -> Index:
    """Return an index of two training images of each class, then test images with these labels."""
    all_labels = [*np.repeat(np.arange(len(classes)), 2), *labels]
    split = ["train"] * (2 * len(classes)) + ["test"] * len(labels)
    table = pd.DataFrame({"label": all_labels, "split": split}).astype({"label": "int32"})
    table["class"] = np.array(classes, object)[table["label"]]
    table["path"] = [f"{i}.jpg" for i in range(len(table))]
    return Index(Path(), table.assign(width=40, height=100, bytes=1), classes, "f", "v", pd.DataFrame())


def small() -> Predictions:
    labels = np.array([0, 1, 0, 0, 2], np.int32)
    top = np.array([[1, 0], [0, 1], [1, 0], [0, 2], [2, 0]], np.int32)
    return Predictions(labels, top, np.tile(np.float32([0.75, 0.25]), (5, 1)))


def measures(images: int) -> pd.DataFrame:
    values = {name: GOOD_IMAGE.get(name, 0.2) for name in ("brightness", "contrast", "sharpness", "glare")}
    return pd.DataFrame({name: np.full(images, value, np.float32) for name, value in values.items()})


def small_tables(catch_all_class="丙"):
    index = build_index(small().labels, ["甲", "乙", "丙"])
    images = image_table(index, index.split("test"), small(), np.float32([0.25, 0.25, 0.25, 0.75, 0.75]), measures(5))
    images = images.assign(suspicion=np.float32(0), suggested="")
    means = np.float32([[1, 0], [0.8, 0.6], [-1, 0]])
    pairs = confused_pairs(images, index.classes, means, RULES)
    accuracies = per_class(small(), index.classes, index.train_counts())
    return analyze(images, accuracies, pairs, typical(index.classes), RULES, catch_all_class)


def test_data_without_a_catch_all_class_have_no_such_cause():
    assert set(small_tables(None).causes["cause"]) == set(CAUSES) - {"others"}


def test_cases_have_predictions_rows_and_measures():
    result = small_tables().cases
    assert result["row"].tolist() == [6, 7, 8, 9, 10]
    assert result["true"].tolist() == ["甲", "乙", "甲", "甲", "丙"]
    assert result["top2"].tolist() == ["甲", "乙", "甲", "丙", "甲"]
    assert result["train_images"].tolist() == [2] * 5
    assert (result["ratio"] == np.float32(2.5)).all()
    assert result["p_true"].dtype == np.float32
    assert result["cause"].tolist() == ["look_alike"] * 3 + ["", ""]
    assert result["cause_tail"].tolist() == [True] * 3 + [False] * 2


def test_classes_have_interval_confusion_and_cluster():
    result = small_tables().classes.set_index("class")
    assert result["images"].tolist() == [3, 1, 1]
    assert result.loc["甲", ["low", "high"]].tolist() == list(wilson_interval(1, 3))
    assert result["most_confused_with"].tolist() == ["乙", "甲", ""]
    assert result["confused_images"].tolist() == [2, 1, 0]
    assert result["cluster"].tolist() == [0, 0, -1]


def test_nearest_training_images_are_added_to_their_cases():
    result = add_nearest(
        small_tables().cases, np.array([0, 2]), np.array([[4, 5], [1, 0]]), np.float32([[0.1, 0.2], [0.3, 0.4]])
    )
    assert result["nearest"].tolist() == [[4, 5], [], [1, 0], [], []]
    np.testing.assert_array_equal(result["nearest_distance"], np.float32([0.1, np.nan, 0.3, np.nan, np.nan]))


@pytest.mark.parametrize("table", ["cases", "classes", "clusters", "causes", "curves"])
def test_tables_survive_parquet(tmp_path, table):
    result = getattr(small_tables(), table)
    if table == "cases":
        result = add_nearest(result, np.array([0]), np.array([[4]]), np.float32([[0.1]]))
    result.to_parquet(tmp_path / "a.parquet", index=False)
    again = pd.read_parquet(tmp_path / "a.parquet")
    assert again.columns.tolist() == result.columns.tolist()
    assert again.map(lambda v: list(v) if isinstance(v, np.ndarray) else v).astype(object).equals(result.astype(object))


def test_39_027_images_of_2388_classes_take_under_60_s_and_4_gib():
    """RP2K's test split at 95 % accuracy.  Anything quadratic in the number of classes would exceed the limits."""
    images, classes, width = 39_027, 2388, 64
    predicted = predictions(images, classes, 0.95)
    names = [f"商品{i}" for i in range(classes)]
    rng = np.random.default_rng(0)
    train_labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 20_000)])
    centers = rng.normal(size=(classes // 2, width)).astype(np.float32)[np.arange(classes) // 2]
    training = centers[train_labels] + rng.normal(0, 0.3, (len(train_labels), width)).astype(np.float32)
    counts = np.bincount(train_labels, minlength=classes)
    tracemalloc.start()
    started = time.monotonic()
    table = predictions_table(predicted, pd.DataFrame({"path": [f"{i}.jpg" for i in range(images)]}), names)
    measured = {name: rng.random(images, np.float32) for name in (*MEASURES[1:], "glare", "suspicion")}
    table = table.assign(row=np.arange(images), train_images=counts[predicted.labels], suggested="", **measured)
    means = class_means(training, train_labels, classes)
    pairs, accuracies = confused_pairs(table, names, means, RULES), per_class(predicted, names, counts)
    result = analyze(table, accuracies, pairs, typical(names), RULES, names[-1])
    errors = np.flatnonzero(~table["correct"])
    positions, distances = nearest(centers[predicted.labels[errors]], training, 3)
    cases = add_nearest(result.cases, errors, positions, distances)
    seconds, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 60
    assert peak < 4 * 2**30
    assert len(cases) == images
    assert len(result.classes) == classes
    assert set(result.causes["cause"]) == set(CAUSES)
    assert result.causes["main"].sum() == len(errors)
    # Classes i and i ^ 1 are near and make up most confusions.
    assert len(result.clusters) > 20
    assert all(len({int(name[2:]) // 2 for name in names}) == 1 for names in result.clusters["classes"])
    assert (train_labels[positions[:, 0]] // 2 == predicted.labels[errors] // 2).mean() > 0.9
