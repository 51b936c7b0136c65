"""Photos to enroll: read, and refused where they contradict what a network knows."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.enrollment.new_images import (
    check_images,
    check_listed,
    check_names,
    check_renames,
    image_sha256,
    measure_new,
    read_names,
    read_new_images,
    read_renames,
)
from rp2k_lab.extension.extension_file import Enrolled, Extension
from rp2k_lab.extension.gallery import Gallery
from tests.helpers.extensions import extension_of

CLASSES = ("Ada", "百岁山", "Cola")


@pytest.fixture
def extension() -> Extension:
    centers = np.eye(2, dtype=np.float32)[[0, 1, 0]]
    return extension_of(CLASSES, Gallery(centers, np.arange(3, dtype=np.int32)))


@pytest.fixture
def photos(tmp_path, write_photo):
    """A folder with two products of three photos each, and a note."""
    for product in ("Zig", "新品"):
        for i in range(3):
            write_photo(tmp_path / "new" / product / f"{i}.jpg", 40, 60, seed=10 * i + len(product))
    (tmp_path / "new" / "Zig" / "notes.txt").write_text("no photo")
    return tmp_path / "new"


@pytest.fixture
def index(tmp_path, write_photo) -> Index:
    """A base's data set of three photos: one each of train, val and test."""
    rows = []
    for i, split in enumerate(("train", "val", "test")):
        path = f"{split}/Cola/{i}.jpg"
        write_photo(tmp_path / "base" / path, 40, 60, seed=90 + i)
        size = (tmp_path / "base" / path).stat().st_size
        rows.append((path, "Cola", 2, split, 40, 60, size))
    table = pd.DataFrame(rows, columns=["path", "class", "label", "split", "width", "height", "bytes"])
    return Index(tmp_path / "base", table, list(CLASSES), "f", "v", pd.DataFrame())


def read(folder, key="task.input"):
    images = read_new_images(key, folder)
    measure_new(images, 1, lambda: None)
    return images


def test_a_folder_and_a_table_give_the_same_images(photos, tmp_path):
    images = read(photos)
    assert images.classes == ["Zig", "新品"]
    assert images.table["path"].tolist() == [f"{name}/{i}.jpg" for name in ("Zig", "新品") for i in range(3)]
    images.table[["path", "class"]].rename(columns={"class": "label"}).to_csv(photos / "list.csv", index=False)
    listed = read(photos / "list.csv")
    pd.testing.assert_frame_equal(listed.table, images.table)


def test_crops_of_one_photo_are_different_images(photos):
    whole, crop = photos / "Zig" / "0.jpg", f"{photos}/Zig/0.jpg#xywh=0,0,20,20"
    assert image_sha256(whole) != image_sha256(crop) != image_sha256(crop.replace("20,20", "21,20"))


def test_unreadable_and_repeated_photos_are_left_out(photos):
    (photos / "Zig" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copy(photos / "Zig" / "0.jpg", photos / "Zig" / "again.jpg")
    images = read(photos)
    assert images.unreadable["path"].tolist() == ["Zig/bad.jpg"]
    assert images.repeated["path"].tolist() == ["Zig/again.jpg"]
    assert len(images.table) == 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, write: [file.unlink() for file in (folder / "Zig").iterdir()], "Zig"),
        (lambda folder, write: shutil.rmtree(folder) or folder.mkdir(), "has no folder of a class"),
        (lambda folder, write: write(folder / "Zig" / "dot.png", 1, 1), "1 × 1 pixels"),
        (lambda folder, write: write(folder / "Zig" / "black.png", 40, 60, color=(0, 0, 0)), "of one color"),
        (lambda folder, write: write(folder / "Zig" / "red.png", 40, 60, color=(0, 0, 255)), "of one color"),
    ],
)
def test_what_shows_nothing_is_refused(photos, spoil, message, tmp_path):
    import cv2

    def write(path, width, height, color=(9, 200, 30)):
        cv2.imwrite(str(path), np.full((height, width, 3), color, np.uint8))

    spoil(photos, write)
    with pytest.raises((RequestError, DataError), match=message) as raised:
        read(photos)
    first, second = str(raised.value).splitlines()
    assert "dataset." not in first
    assert second


def test_a_product_of_unreadable_photos_is_refused(photos):
    for file in (photos / "Zig").glob("*.jpg"):
        file.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"none of 3 photos of Zig can be read"):
        read(photos)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cola", "Cola is already a product of this network\nuse task.add_images"),
        ("COLA", "COLA differs from Cola in case, width or accents alone"),
        ("Ｃｏｌａ", "differs from Cola in case, width"),
        ("zig", "differs from .ig in case"),
    ],
)
def test_new_names_must_be_new(photos, name, message):
    shutil.copytree(photos / "新品", photos / name)
    with pytest.raises(RequestError, match=message):
        check_names("task.input", read(photos), CLASSES)


def test_names_without_a_line_break_or_a_zero(photos):
    listed = photos / "list.csv"
    for name in ("a\nb", "a\0b"):
        pd.DataFrame({"path": ["Zig/0.jpg"], "label": [name]}).to_csv(listed, index=False)
        with pytest.raises((RequestError, DataError), match=r"line break or a zero|\\x00|\\n"):
            check_names("task.input", read(listed), CLASSES)


def test_added_images_need_listed_products(photos):
    (photos / "Zig").rename(photos / "cola")
    with pytest.raises(RequestError, match=r"cola is no product of this network; Cola is\nuse task.input"):
        check_names("task.add_images", read(photos), CLASSES)


def test_copies_under_another_class_are_refused(photos, index, extension):
    images = read(photos)
    assert len(check_images("task.input", images, index, extension).table) == 6
    shutil.copy(photos / "Zig" / "1.jpg", photos / "新品" / "copy.jpg")
    with pytest.raises(DataError, match=r"Zig.*\n") as raised:
        check_images("task.input", read(photos), index, extension)
    assert "of this input" in str(raised.value)


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "Zig here, and Cola of this network"), ("val", "base's val"), ("test", "base's test")],
)
def test_photos_of_the_base_are_refused(photos, index, extension, split, message):
    file = index.root / index.table.loc[index.table["split"] == split, "path"].item()
    shutil.copy(file, photos / "Zig" / "known.jpg")
    with pytest.raises(DataError, match=message):
        check_images("task.input", read(photos), index, extension)


def test_enrolled_photos_are_recognized(photos, index, extension):
    sha = image_sha256(photos / "Zig" / "0.jpg")
    one = Enrolled(np.ones((1, 2), np.float32), np.array([3], np.int32), (sha,))
    enrolled = replace(extension, classes=(*CLASSES, "Zig"), head_labels=(0, 1, 2, -1), enrolled=one)
    images = check_images("task.add_images", read(photos), index, enrolled)
    assert images.repeated["path"].tolist() == ["Zig/0.jpg"]
    assert len(images.table) == 5
    other = replace(enrolled, classes=(*CLASSES, "Other"))
    with pytest.raises(DataError, match="Zig here, and Other of this network"):
        check_images("task.input", read(photos), index, other)


def test_lists_of_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("Cola\r\n百岁山\n\n", "utf-8")
    names = read_names("task.remove", file)
    assert names == ["Cola", "百岁山"]
    check_listed("task.remove", names, CLASSES)
    with pytest.raises(RequestError, match=r"cola is no product of this network; Cola is"):
        check_listed("task.remove", ["cola"], CLASSES)
    file.write_text("\n")
    with pytest.raises(RequestError, match="names no product"):
        read_names("task.remove", file)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("old,name\nCola,Pepsi\n", "has no column new"),
        ("old,new\n", "has no row"),
        ("old,new\nCola,A\nCola,B\n", "has Cola twice in column old"),
        ("old,new\nCola,A\nAda,A\n", "has A twice in column new"),
        ("old,new\nCola,Ada\n", "Ada would be the name of two products"),
        ("old,new\nCola,ADA\n", "ADA would be the name of two products"),
        ("old,new\nPepsi,B\n", "Pepsi is no product"),
    ],
)
def test_wrong_renames_are_refused(tmp_path, rows, message):
    (tmp_path / "names.csv").write_text(rows)
    with pytest.raises(RequestError, match=message):
        check_renames("task.rename", read_renames("task.rename", tmp_path / "names.csv"), CLASSES)


def test_names_may_be_exchanged(tmp_path):
    (tmp_path / "names.csv").write_text("old,new\nCola,Ada\nAda,Cola\n")
    renames = read_renames("task.rename", tmp_path / "names.csv")
    check_renames("task.rename", renames, CLASSES)
    assert renames == {"Cola": "Ada", "Ada": "Cola"}
