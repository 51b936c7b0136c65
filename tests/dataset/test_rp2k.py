import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.source.rp2k import scan_release


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_lists_splits_classes_and_images_in_order(tmp_path):
    touch(tmp_path, "train/555（冰炫）/b.jpg", "train/555（冰炫）/a.PNG", "train/a b.c/1.JPEG", "test/a b.c/2.jpg")
    scan = scan_release(tmp_path)
    assert scan.other_files == []
    assert scan.images == [
        ("train/555（冰炫）/a.PNG", "555（冰炫）", "train"),
        ("train/555（冰炫）/b.jpg", "555（冰炫）", "train"),
        ("train/a b.c/1.JPEG", "a b.c", "train"),
        ("test/a b.c/2.jpg", "a b.c", "test"),
    ]


def test_other_files_are_listed_separately(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/a/Thumbs.db", "train/a/notes.txt", "train/readme.md", "readme.md")
    scan = scan_release(tmp_path)
    assert [path for path, _, _ in scan.images] == ["train/a/1.jpg"]
    assert scan.other_files == ["train/a/Thumbs.db", "train/a/notes.txt", "train/readme.md"]


def test_missing_train_is_a_wrong_request(tmp_path):
    touch(tmp_path, "test/a/1.jpg")
    with pytest.raises(RequestError, match="train") as error:
        scan_release(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_empty_class_in_train_is_unusable_data(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/空/notes.txt")
    with pytest.raises(DataError, match="空"):
        scan_release(tmp_path)


def test_empty_class_in_test_is_fine(tmp_path):
    """RP2K has classes without test images."""
    touch(tmp_path, "train/a/1.jpg")
    (tmp_path / "test" / "a").mkdir(parents=True)
    assert [split for _, _, split in scan_release(tmp_path).images] == ["train"]
