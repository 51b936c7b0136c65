"""The errors' page's pictures: which ones, how large, and that a map lies over what it is of."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.analysis.thumbnails import SIDE, Thumbnails
from rp2k_lab.dataset.photo_index import index_of
from rp2k_lab.evaluation.predictor import Preprocessing

WAY = Preprocessing((64, 64), "letterbox", 1.0)


@pytest.fixture
def index(tmp_path):
    """Train has a's of three shapes, each of its own gray, and a broken b; test a tall, white photo."""
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
    return index_of(tmp_path, table, ["a", "b"], table.assign(problem="")[:0])


def test_photos_keep_their_shape_and_are_small(index):
    pictures = Thumbnails(index, {}, "", WAY)
    assert pictures.photo(0).shape == (round(SIDE / 3), SIDE, 3)
    assert pictures.photo(1).shape == (90, 100, 3)
    assert pictures.photo(4).shape == (SIDE, SIDE // 4, 3)
    assert pictures.photo(4).dtype == np.uint8
    assert pictures.photo(3) is None
    assert [pictures.class_of(row) for row in (0, 4)] == ["a", "b"]


def test_the_example_of_a_class_has_its_median_shape(index):
    pictures = Thumbnails(index, {}, "", WAY)
    np.testing.assert_array_equal(pictures.example("a"), np.full((90, 100, 3), 60))
    assert pictures.example("b") is None
    assert pictures.example("unheard of") is None


@pytest.mark.parametrize(
    "way",
    [
        WAY,
        Preprocessing((64, 64), "stretch", 1.0),
        Preprocessing((64, 64), "letterbox", 0.5),
    ],
    ids=["letterbox", "stretch", "cropped"],
)
def test_a_map_lies_over_the_photo_without_its_padding(index, way):
    heat = np.zeros((4, 4), np.float32)
    heat[:2] = 1
    shown = Thumbnails(index, {4: heat}, "Grad-CAM", way).explanation(4)
    height, width = shown.shape[:2]
    shares = {"stretch": 1, "letterbox": 0.25 if way.crop_ratio == 1 else 0.5}
    assert (height, width) == (SIDE, SIDE * shares[way.resize])
    redness = shown[..., 0].astype(int) - shown[..., 2]
    assert redness[:8].min() > 60
    assert redness[-8:].max() < 5
    assert shown[-1].min() > 100  # of the photo: its padding would be black


def test_without_a_map_or_a_photo_there_is_no_explanation(index):
    pictures = Thumbnails(index, {3: np.ones((2, 2), np.float32)}, "Grad-CAM", WAY)
    assert pictures.explanation(0) is None
    assert pictures.explanation(3) is None
