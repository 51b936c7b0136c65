import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.source.rp2k import scan_release
from tests.helpers.dataset_options import options


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
    assert scan.other_files == ["train/a/Thumbs.db", "train/a/notes.txt", "train/readme.md", "readme.md"]


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


@pytest.mark.parametrize("names", [("Train", "VAL", "Test"), ("training", "valid", "testing")])
def test_splits_have_other_names_in_any_case(tmp_path, names):
    """Roboflow writes valid/; val would be drawn from train."""
    touch(tmp_path, *(f"{name}/a/1.jpg" for name in names))
    assert [split for _, _, split in scan_release(tmp_path).images] == ["train", "val", "test"]


def test_two_folders_for_one_split_are_refused(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    with pytest.raises(RequestError, match=r"both val and valid are folders for val\nmove one of them away$"):
        scan_release(tmp_path)


@pytest.mark.parametrize("files", [["front/1.jpg", "front/2.HEIC"], ["x/y/3.jfif", "x/y/4.tif"]])
def test_photos_in_a_folder_of_a_class_stop_the_run(tmp_path, files):
    """Forty photos in train/a/front/ counted as one file."""
    touch(tmp_path, "train/a/1.jpg", *(f"train/a/{file}" for file in files))
    folder = f"{tmp_path}/train/a/{files[0].split('/')[0]}"
    with pytest.raises(DataError) as error:
        scan_release(tmp_path)
    first, second = str(error.value).split("\n")
    assert first == f"{folder}: 2 photos in a folder of a class's folder"
    assert second.endswith("dataset=folder dataset.class_depth=1")
    scanned = options("folder", root=tmp_path, class_depth=1).scan()
    assert [name for _, name, _ in scanned.images] == ["a"] * 3


def test_photos_without_a_suffix_in_a_linked_folder_of_a_class_are_seen(tmp_path):
    touch(tmp_path, "set/train/a/1.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "截屏").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "set" / "train" / "a" / "more").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="more: 1 photos in a folder"):
        scan_release(tmp_path / "set")


def test_folders_beside_the_splits_are_counted(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/x.jpg", "unlabeled/b/2.jpg", "unlabeled/b/3.txt", "empty/.keep")
    scan = scan_release(tmp_path)
    assert scan.unused_images == ["train/x.jpg", "unlabeled/b/2.jpg"]
    assert scan.other_files == ["empty/.keep", "unlabeled/b/3.txt"]
