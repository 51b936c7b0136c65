"""All tables of an analysis, on few photos and on as many as RP2K has."""

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.accuracy_curves import MEASURES
from rp2k_lab.analysis.causes import CAUSES
from rp2k_lab.analysis.neighbors import class_means, nearest
from rp2k_lab.analysis.tables import add_nearest, analyze, photo_table
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.evaluation.metrics import Predictions, predictions_table
from tests.helpers.error_cases import GOOD_PHOTO, RULES, predictions, usual


def an_index(labels, classes: list[str]) -> Index:
    """Photos of test as labeled, behind two training photos of each class."""
    everything = [*np.repeat(np.arange(len(classes)), 2), *labels]
    split = ["train"] * (2 * len(classes)) + ["test"] * len(labels)
    table = pd.DataFrame({"label": everything, "split": split}).astype({"label": "int32"})
    table["class"] = np.array(classes, object)[table["label"]]
    table["path"] = [f"{i}.jpg" for i in range(len(table))]
    return Index(Path(), table.assign(width=40, height=100, bytes=1), classes, "f", "v", pd.DataFrame())


def small() -> Predictions:
    labels = np.array([0, 1, 0, 0, 2], np.int32)
    top = np.array([[1, 0], [0, 1], [1, 0], [0, 2], [2, 0]], np.int32)
    return Predictions(labels, top, np.tile(np.float32([0.75, 0.25]), (5, 1)))


def measures(photos: int) -> pd.DataFrame:
    values = {name: GOOD_PHOTO.get(name, 0.2) for name in ("brightness", "contrast", "sharpness", "glare")}
    return pd.DataFrame({name: np.full(photos, value, np.float32) for name, value in values.items()})


def small_tables():
    index = an_index(small().labels, ["甲", "乙", "丙"])
    photos = photo_table(index, index.split("test"), small(), np.float32([0.25, 0.25, 0.25, 0.75, 0.75]), measures(5))
    photos = photos.assign(suspicion=np.float32(0), suggested="")
    means = np.float32([[1, 0], [0.8, 0.6], [-1, 0]])
    return analyze(photos, small(), index.classes, index.train_counts(), means, usual(index.classes), RULES, "丙")


def test_cases_have_the_predictions_the_row_and_the_measures():
    found = small_tables().cases
    assert found["row"].tolist() == [6, 7, 8, 9, 10]
    assert found["true"].tolist() == ["甲", "乙", "甲", "甲", "丙"]
    assert found["top2"].tolist() == ["甲", "乙", "甲", "丙", "甲"]
    assert found["train_images"].tolist() == [2] * 5
    assert (found["ratio"] == np.float32(2.5)).all()
    assert found["p_true"].dtype == np.float32
    assert found["cause"].tolist() == ["look_alike"] * 3 + ["", ""]
    assert found["cause_tail"].tolist() == [True] * 3 + [False] * 2


def test_classes_have_their_interval_what_they_are_taken_for_and_their_cluster():
    found = small_tables().classes.set_index("class")
    assert found["images"].tolist() == [3, 1, 1]
    assert found.loc["甲", ["low", "high"]].tolist() == list(wilson_interval(1, 3))
    assert found["most_confused_with"].tolist() == ["乙", "甲", ""]
    assert found["confused_images"].tolist() == [2, 1, 0]
    assert found["cluster"].tolist() == [0, 0, -1]


def test_nearest_training_photos_belong_to_their_case():
    found = add_nearest(
        small_tables().cases, np.array([0, 2]), np.array([[4, 5], [1, 0]]), np.float32([[0.1, 0.2], [0.3, 0.4]])
    )
    assert found["nearest"].tolist() == [[4, 5], [], [1, 0], [], []]
    np.testing.assert_array_equal(found["nearest_distance"], np.float32([0.1, np.nan, 0.3, np.nan, np.nan]))


@pytest.mark.parametrize("table", ["cases", "classes", "clusters", "causes", "curves"])
def test_every_table_is_read_back_from_parquet(tmp_path, table):
    found = getattr(small_tables(), table)
    if table == "cases":
        found = add_nearest(found, np.array([0]), np.array([[4]]), np.float32([[0.1]]))
    found.to_parquet(tmp_path / "a.parquet", index=False)
    again = pd.read_parquet(tmp_path / "a.parquet")
    assert again.columns.tolist() == found.columns.tolist()
    assert again.map(lambda v: list(v) if isinstance(v, np.ndarray) else v).astype(object).equals(found.astype(object))


def test_39_027_photos_of_2388_classes_take_under_60_s_and_4_gib():
    """The test split of RP2K, 95 % right.  What grows with the squared number of classes would show here."""
    photos, classes, width = 39_027, 2388, 64
    said = predictions(photos, classes, 0.95)
    names = [f"商品{i}" for i in range(classes)]
    rng = np.random.default_rng(0)
    train_labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 20_000)])
    centers = rng.normal(size=(classes // 2, width)).astype(np.float32)[np.arange(classes) // 2]
    training = centers[train_labels] + rng.normal(0, 0.3, (len(train_labels), width)).astype(np.float32)
    counts = np.bincount(train_labels, minlength=classes)
    tracemalloc.start()
    started = time.monotonic()
    table = predictions_table(said, [f"{i}.jpg" for i in range(photos)], names)
    drawn = {name: rng.random(photos, np.float32) for name in (*MEASURES[1:], "glare", "suspicion")}
    table = table.assign(row=np.arange(photos), train_images=counts[said.labels], suggested="", **drawn)
    means = class_means(training, train_labels, classes)
    found = analyze(table, said, names, counts, means, usual(names), RULES, names[-1])
    errors = np.flatnonzero(~table["correct"])
    positions, distances = nearest(centers[said.labels[errors]], training, 3)
    cases = add_nearest(found.cases, errors, positions, distances)
    seconds, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 60
    assert peak < 4 * 2**30
    assert len(cases) == photos
    assert len(found.classes) == classes
    assert set(found.causes["cause"]) == set(CAUSES)
    assert found.causes["main"].sum() == len(errors)
    # Neighbors i, i ^ 1 were drawn near, and are most of what is confused.
    assert len(found.clusters) > 20
    assert all(len({int(name[2:]) // 2 for name in names}) == 1 for names in found.clusters["classes"])
    assert (train_labels[positions[:, 0]] // 2 == said.labels[errors] // 2).mean() > 0.9
