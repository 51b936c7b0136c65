"""The map of the classes: places, pairs and the drawing."""

import re

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.class_map import class_map_chart, confusions, map_positions
from rp2k_lab.analysis.neighbors import class_means
from tests.helpers import error_tables

pytestmark = pytest.mark.slow  # joblib, which scikit-learn uses, counts the cores by a process


def families(count: int, of: int = 8, width: int = 64) -> np.ndarray:
    """Return the means of classes in families of look-alikes, float32 (count, width)."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((-(-count // of), width)).repeat(of, 0)[:count] + 0.6 * rng.standard_normal(
        (count, width)
    )
    return class_means(rows.astype(np.float32), np.arange(count), count)


def kept(means: np.ndarray, places: np.ndarray, count: int = 5) -> float:
    """Return the fraction of the nearest classes by cosine that are the nearest on the map."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    nearest = [np.argsort(each, axis=1, kind="stable")[:, 1 : count + 1] for each in (distances, -means @ means.T)]
    return np.mean([len(set(a) & set(b)) / count for a, b in zip(*nearest, strict=True)])


def test_look_alikes_are_near_each_other_and_the_same_means_give_the_same_bits():
    means = families(160)
    places = map_positions(means)
    assert places.dtype == np.float32
    assert places.min() == 0
    assert places.max() == 1
    assert kept(means, places) > 0.6
    np.testing.assert_array_equal(map_positions(means), places)


@pytest.mark.soak
def test_a_map_of_2388_classes_keeps_their_neighborhoods():
    """The first two principal components keep an eighth of the ten nearest."""
    means = families(2388, width=512)
    assert kept(means, map_positions(means), 10) > 0.5


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 7])
def test_few_classes_have_places(count):
    places = map_positions(families(count) if count > 1 else np.ones((count, 3), np.float32))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_equal_means_and_narrow_features_have_places():
    assert np.isfinite(map_positions(np.ones((9, 4), np.float32))).all()
    assert np.isfinite(map_positions(np.linspace(-1, 1, 9, dtype=np.float32)[:, None])).all()


def test_a_class_without_training_images_has_no_place():
    means = families(9)
    means[4] = np.nan
    assert np.flatnonzero(np.isnan(map_positions(means)).any(axis=1)).tolist() == [4]


def test_pairs_are_counted_in_both_directions():
    cases = pd.DataFrame({"true": ["a", "b", "a", "c", "a"], "top1": ["b", "a", "b", "b", "a"]})
    pairs = confusions(cases.assign(correct=cases["true"] == cases["top1"]))
    assert pairs.to_numpy().tolist() == [["a", "b", 3], ["b", "c", 1]]


def test_drawing_has_a_dot_a_class_and_escapes_names():
    names = ["<b>&", "\u202e伊利", *(f"class {i}" for i in range(7))]
    tables = error_tables.tables(300, names)
    tables.classes.loc[3, "map_x"] = np.nan
    chart = class_map_chart(tables.classes, tables.cases)
    assert re.findall(r'data-class="(\d)"', chart) == list("01245678")
    assert ">class 1<" not in chart
    assert "<b>" not in chart
    assert "&lt;b&gt;&amp;" in chart
    assert "\\u202e伊利" in chart
    first = confusions(tables.cases[~tables.cases[["true", "top1"]].isin(["class 1"]).any(axis=1)]).iloc[0]
    assert re.search(rf" and .*: {first['images']} confused</title>", chart)


def test_no_class_and_no_error_are_drawn():
    tables = error_tables.tables(30, ["a", "b", "c"], accuracy=1.1)
    assert "<line" not in class_map_chart(tables.classes, tables.cases)
    assert "<circle" not in class_map_chart(tables.classes.assign(map_x=np.nan), tables.cases)
