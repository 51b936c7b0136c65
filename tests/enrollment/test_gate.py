"""What the gate says about products and photos, on vectors whose answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.enrollment.gate import base_near_copies, judge, rivals
from rp2k_lab.enrollment.new_images import NewImages
from rp2k_lab.extension.extension_file import Enrolled, Extension
from rp2k_lab.extension.gallery import Gallery, unit
from tests.helpers.extensions import extension_of

CLASSES = ("Ada", "Cola", "Dim")
LOOK_ALIKE = 0.8


@pytest.fixture
def extension() -> Extension:
    """Three products, each along an axis of a space of six."""
    axes = np.eye(6, dtype=np.float32)
    return extension_of(CLASSES, Gallery(axes[:3], np.arange(3, dtype=np.int32)))


def images(products: dict[str, int], width: int = 60, height: int = 90) -> NewImages:
    photos = [(name, i) for name, count in products.items() for i in range(count)]
    rows = [(f"{name}/{i}.jpg", name, width, height, f"{name}{i}") for name, i in photos]
    table = pd.DataFrame(rows, columns=["path", "class", "width", "height", "sha256"])
    empty = pd.DataFrame({"path": [], "class": [], "problem": []})
    return NewImages(Path(), table, empty, empty[["path", "class"]])


def quality(count: int, sharpness: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"brightness": [0.5] * count, "contrast": 0.2, "sharpness": sharpness, "glare": 0.0})


def near(axis: int, *more: tuple[int, float]) -> np.ndarray:
    vector = np.zeros((1, 6), np.float32)
    vector[0, axis] = 1
    for other, weight in more:
        vector[0, other] = weight
    return unit(vector)


def texts(findings) -> list[tuple[str, str]]:
    return [(finding.path or finding.product, finding.text) for finding in findings]


def test_a_clear_product_passes(extension):
    vectors = np.concatenate([near(4, (5, 0.3)), near(4, (5, -0.3)), near(4, (3, 0.4))])
    assert judge(images({"New": 3}), vectors, quality(3), extension, LOOK_ALIKE) == []


def test_a_twin_of_a_listed_product_is_named(extension):
    vectors = np.concatenate([near(1, (4, 0.3)), near(1, (5, 0.3))])
    found = texts(judge(images({"New": 2}), vectors, quality(2), extension, LOOK_ALIKE))
    assert ("New", "looks like Cola (cosine 0.98): the same product?") in found


def test_a_photo_nearer_to_another_product_is_named(extension):
    vectors = np.concatenate([near(4, (5, 0.3)), near(4, (3, 0.3)), near(0, (4, 0.2))])
    found = texts(judge(images({"New": 3}), vectors, quality(3), extension, LOOK_ALIKE))
    assert len(found) == 1
    assert found[0][0] == "New/2.jpg"
    assert found[0][1].startswith("is nearer to Ada than to its own product (cosine 0.98 against 0.")


def test_a_photo_nearer_to_another_new_product_is_named(extension):
    vectors = np.concatenate([near(4, (3, 0.2)), near(4), near(5, (3, 0.2)), near(5), near(4, (5, 0.1))])
    found = texts(judge(images({"New": 2, "Other": 3}), vectors, quality(5), extension, LOOK_ALIKE))
    assert [path for path, text in found if "is nearer to New" in text] == ["Other/2.jpg"]


def test_single_photos_copies_and_bad_photos(extension):
    found = texts(judge(images({"New": 1}, 10, 200), near(4), quality(1, 0.01), extension, LOOK_ALIKE))
    assert found == [
        ("New", "has one photo: its accuracy cannot be estimated, add a second"),
        ("New/0.jpg", "has an extreme shape (10 × 200 pixels)"),
        ("New/0.jpg", "is small (10 × 200 pixels)"),
        ("New/0.jpg", "is blurred (sharpness 0.01)"),
    ]
    twice = np.concatenate([near(4), near(4, (5, 0.05))])
    found = texts(judge(images({"New": 2}), twice, quality(2), extension, LOOK_ALIKE))
    assert {text for _, text in found} == {"is nearly the same photo as another of this product (cosine 0.999)"}


def test_added_photos_are_compared_with_their_product(extension):
    more = images({"Cola": 2})
    vectors = np.concatenate([near(1, (4, 0.5)), near(2, (4, 0.5))])
    found = texts(judge(more, vectors, quality(2), extension, LOOK_ALIKE))
    assert [path for path, _ in found] == ["Cola/1.jpg"]


def test_near_copies_of_training_photos(extension):
    train = np.concatenate([near(0), near(1, (3, 0.4)), near(1, (5, 0.4))])
    new = np.concatenate([near(1, (3, 0.41)), near(4)])
    paths = ["train/a.jpg", "train/b.jpg", "train/c.jpg"]
    found = texts(base_near_copies(images({"New": 2}), new, extension, (train, np.array([0, 1, 1]), paths)))
    assert found == [("New/0.jpg", "is nearly the same photo as train/b.jpg of train")]


def test_rivals_come_nearest_first_without_the_product(extension):
    enrolled = extension.enroll(["New"], Enrolled(near(1, (4, 0.9)), np.array([3], np.int32), ("x",)))
    (found,) = rivals(near(1, (4, 0.9)), enrolled, [3])
    assert [enrolled.classes[rival.label] for rival in found] == ["Cola", "Ada", "Dim"]
    (found, others) = rivals(np.concatenate([near(1), near(0)]), extension, [0, -1], 9)
    assert (len(found), len(others)) == (2, 3)
