"""Images of the errors' page: choice, size, and the position of contours."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.analysis.thumbnails import LARGE, SIDE, Thumbnails
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
def test_contours_are_drawn_on_the_image_without_padding(index, preprocessing):
    heat = np.zeros((8, 8), np.float32)
    heat[:4] = 1
    explanation = Thumbnails(index, {4: heat}, "Grad-CAM", preprocessing).explanation(4)
    ratios = {"stretch": 1, "letterbox": 0.25 if preprocessing.crop_ratio == 1 else 0.5}
    assert explanation.shape == (160, 160 * ratios[preprocessing.resize], 3)
    is_drawn = np.ptp(explanation, axis=-1) > 40  # the photo is white, the lines are yellow
    assert is_drawn[72:88].any(axis=0).mean() > 0.9
    assert not is_drawn[96:].any()
    assert explanation[96:].min() > 240  # padding would be black


def test_no_contours_where_the_map_has_too_few_places_across_the_image(index):
    heats = {4: np.ones((7, 7), np.float32)}  # 7 / 4 across
    assert Thumbnails(index, heats, "Grad-CAM", PREPROCESSING).explanation(4) is None
    stretched = Preprocessing((64, 64), "stretch", 1.0)
    assert Thumbnails(index, heats, "Grad-CAM", stretched).explanation(4) is not None


def test_enlarged_photos_are_larger_than_their_thumbnails(index):
    thumbnails = Thumbnails(index, {}, "", None)
    assert thumbnails.large(0).shape == (100, 300, 3)
    assert thumbnails.large(2).shape == (LARGE, LARGE // 8, 3)
    assert thumbnails.large(1) is None  # 100 × 90: its thumbnail is all of it
    assert thumbnails.large(3) is None  # broken
    assert thumbnails.large_example("a") is None  # the median shape: 100 × 90
    assert thumbnails.large_example("unknown") is None


def test_no_explanation_without_a_map_or_a_readable_file(index):
    thumbnails = Thumbnails(index, {3: np.ones((2, 2), np.float32)}, "Grad-CAM", PREPROCESSING)
    assert thumbnails.explanation(0) is None
    assert thumbnails.explanation(3) is None
