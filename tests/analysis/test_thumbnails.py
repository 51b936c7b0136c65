"""Thumbnails of the errors' page: choice, size, and the position of heat maps."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.analysis.thumbnails import SIDE, Thumbnails
from rp2k_lab.dataset.photo_index import Listing, make_index
from rp2k_lab.evaluation.predictor import Preprocessing

PREPROCESSING = Preprocessing((64, 64), "letterbox", 1.0)


@pytest.fixture
def index(tmp_path):
    """An index: train has three shapes of class a in different grays and a broken b, test a tall white image."""
    rows = []
    for i, (name, split, width, height) in enumerate(
        [("a", "train", 300, 100), ("a", "train", 100, 90), ("a", "train", 50, 400), ("b", "train", 10, 10),
         ("b", "test", 60, 240)]
    ):  # fmt: skip
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((height, width, 3), 255 if split == "test" else 10 + 50 * i, np.uint8)).save(path)
        rows.append((path.name, name, split, width, height, 100, 0))
    (tmp_path / "3.png").write_bytes(b"")
    table = pd.DataFrame(rows, columns=["path", "class", "split", "width", "height", "bytes", "changed"])
    return make_index(Listing(tmp_path, table, []), table, ["a", "b"], table.assign(problem="")[:0])


def test_thumbnails_are_small_and_keep_the_aspect_ratio(index):
    thumbnails = Thumbnails(index, {}, "", PREPROCESSING)
    assert thumbnails.image(0).shape == (round(SIDE / 3), SIDE, 3)
    assert thumbnails.image(1).shape == (90, 100, 3)
    assert thumbnails.image(4).shape == (SIDE, SIDE // 4, 3)
    assert thumbnails.image(4).dtype == np.uint8
    assert thumbnails.image(3) is None
    assert [thumbnails.class_of(row) for row in (0, 4)] == ["a", "b"]


def test_example_has_the_median_aspect_ratio_of_its_class(index):
    thumbnails = Thumbnails(index, {}, "", PREPROCESSING)
    np.testing.assert_array_equal(thumbnails.example("a"), np.full((90, 100, 3), 60))
    assert thumbnails.example("b") is None
    assert thumbnails.example("unknown") is None


@pytest.mark.parametrize(
    "preprocessing",
    [
        PREPROCESSING,
        Preprocessing((64, 64), "stretch", 1.0),
        Preprocessing((64, 64), "letterbox", 0.5),
    ],
    ids=["letterbox", "stretch", "cropped"],
)
def test_heat_map_covers_the_image_without_padding(index, preprocessing):
    heat = np.zeros((4, 4), np.float32)
    heat[:2] = 1
    explanation = Thumbnails(index, {4: heat}, "Grad-CAM", preprocessing).explanation(4)
    height, width = explanation.shape[:2]
    ratios = {"stretch": 1, "letterbox": 0.25 if preprocessing.crop_ratio == 1 else 0.5}
    assert (height, width) == (SIDE, SIDE * ratios[preprocessing.resize])
    redness = explanation[..., 0].astype(int) - explanation[..., 2]
    assert redness[:8].min() > 60
    assert redness[-8:].max() < 5
    assert explanation[-1].min() > 100  # padding would be black


def test_no_explanation_without_a_map_or_a_readable_file(index):
    thumbnails = Thumbnails(index, {3: np.ones((2, 2), np.float32)}, "Grad-CAM", PREPROCESSING)
    assert thumbnails.explanation(0) is None
    assert thumbnails.explanation(3) is None
