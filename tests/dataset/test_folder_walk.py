"""Walks through real folders with links, hidden folders and files of many kinds."""

import os

import pytest
from PIL import Image

from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.folder_walk import HIDDEN, LOOP, files_below, folders_of, is_image, kinds, unlisted
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers.dataset_options import dataset, options


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_files_below_follow_links_and_name_what_they_do_not_enter(tmp_path):
    touch(tmp_path, "set/b/1.jpg", "set/2.txt", "set/.git/3.jpg", "other/4.jpg", "other/__MACOSX/x")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "self").symlink_to("self")
    assert list(files_below(tmp_path / "set")) == [
        (".git/", HIDDEN),
        ("2.txt", None),
        ("b/1.jpg", None),
        ("linked/4.jpg", None),
        ("linked/__MACOSX/", HIDDEN),
        ("linked/up/", LOOP),
        ("self", None),
    ]


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.heic", "a.AVIF", "a.tiff", "a.jp2", "a.dng", "a.psd", "a.webp"])
def test_images_by_suffix(tmp_path, name):
    assert is_image(tmp_path, name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["截屏2019-12-09下午7.49", "no_suffix", "wrong.txt"])
def test_images_by_first_bytes(tmp_path, kind, name):
    Image.new("RGB", (8, 8)).save(tmp_path / name, kind)
    assert is_image(tmp_path, name)


def test_other_files_are_no_images(tmp_path):
    touch(tmp_path, "notes.txt", "labels.json", "film.mp4", "empty")
    os.mkfifo(tmp_path / "pipe")
    assert not any(is_image(tmp_path, name) for name in os.listdir(tmp_path))


def test_kinds_are_counted_by_name():
    paths = ["a/1.txt", "b/2.TXT", "3.json", ".DS_Store", "a/.DS_Store", "a/._1.jpg", ".2.jpg", "README",
             "notes of 2. May", "a/.git/", "x\x1b.\x1b[31m"]  # fmt: skip
    assert kinds(paths) == (
        "2 .txt, 2 .DS_Store, 2 without a suffix, 1 .json, 1 ._*, 1 hidden .jpg, 1 .git/, 1 .\\x1b[31m"
    )
    assert kinds(f"{i}.x{i}" for i in range(10)).endswith("1 .x7, and 2 of 2 other kinds")


def test_folders_are_counted():
    assert folders_of(["a/1.jpg", "a/2.jpg", "3.jpg"]) == "2 in a/, 1 in ./"


def test_what_a_list_does_not_name(tmp_path):
    touch(
        tmp_path,
        "in/1.jpg",
        "in/2.jpg",
        "in/3.txt",
        "in/._1.jpg",
        "in/below/4.jpg",
        "elsewhere/5.jpg",
        "list.csv",
        "6.jpg",
    )
    files = ["in/1.jpg", "elsewhere/../in/7.jpg", f"{tmp_path}/elsewhere/5.jpg", "gone/8.jpg"]
    assert unlisted(tmp_path, files, [tmp_path / "list.csv"]) == (["in/2.jpg"], ["in/._1.jpg", "in/3.txt"])
    assert unlisted(tmp_path, ["in/1.jpg", "6.jpg"], [tmp_path / "list.csv"])[0] == ["in/2.jpg"]


@pytest.mark.usefixtures("data_folder")
class TestIndexSays:
    @pytest.fixture
    def root(self, tmp_path, write_photo):
        for name in "ab":
            for i in range(4):
                write_photo(tmp_path / "set" / "train" / name / f"{i}.png", seed=i)
        return tmp_path / "set"

    def test_photos_that_are_not_used(self, root, write_photo, caplog):
        caplog.set_level("INFO")
        for i in range(3):
            write_photo(root / "unlabeled" / f"{i}.jpg")
        touch(root, "train/a/.DS_Store", "train/b/.DS_Store", "labels.json")
        assert len(build_index(dataset(root)).table) == 8
        assert "3 photos belong to no class and are not used: 3 in unlabeled/" in caplog.text
        assert "no photos, not used: 2 .DS_Store, 1 .json; the first train/a/.DS_Store" in caplog.text
        assert [record.levelname for record in caplog.records if "not used" in record.message] == ["WARNING", "INFO"]

    def test_nothing_where_all_is_used(self, root, caplog):
        caplog.set_level("INFO")
        build_index(dataset(root))
        assert "not used" not in caplog.text

    def test_photos_that_no_row_names(self, root, caplog):
        caplog.set_level("INFO")
        rows = [f"train/{name}/{i}.png,{name}" for name in "ab" for i in range(3)]
        (root / "list.csv").write_text("\n".join(["path,label", *rows, ""]))
        build_index(options("table", table=root / "list.csv", test_fraction=0.0))
        assert "2 photos belong to no class and are not used: 1 in train/a/, 1 in train/b/" in caplog.text

    def test_a_camera_file_ends_the_run_with_its_name(self, root):
        touch(root, "train/a/x.dng")
        (root / "train" / "a" / "x.dng").write_bytes(b"x" * 100)
        with pytest.raises(Exception, match=r"train/a/x\.dng: camera raw is not read\nsave such photos as JPEG or PNG"):
            build_index(dataset(root))
        skipped = build_index(dataset(root, on_bad_image="skip")).skipped
        assert skipped["problem"].tolist() == ["camera raw is not read"]


@pytest.mark.usefixtures("data_folder")
class TestTwins:
    """macOS writes é as two characters, others as one."""

    ONE, TWO = "caf\u00e9", "cafe\u0301"

    def fill(self, root, write_photo, names, split="train"):
        for name in names:
            for i in range(3):
                write_photo(root / split / name / f"{i}.png", seed=i)

    @pytest.mark.parametrize(
        ("one", "two", "codes"), [(ONE, TWO, ("caf\\u00e9", "cafe\\u0301")), ("红茶", "红茶 ", ("红茶", "红茶\\u0020"))]
    )
    def test_a_class_of_test_that_looks_like_one_of_train(self, tmp_path, write_photo, one, two, codes):
        self.fill(tmp_path, write_photo, [one, "b"])
        self.fill(tmp_path, write_photo, [two], "test")
        with pytest.raises(Exception, match="its class") as error:
            build_index(dataset(tmp_path))
        first, second = str(error.value).split("\n")
        assert f"its class {codes[1]} is the class {codes[0]} in train (3 photos" in first
        assert second == "rename its folder, so that both are the same"

    def test_two_of_train_are_told_apart_with_a_warning(self, tmp_path, write_photo, caplog):
        self.fill(tmp_path, write_photo, [self.ONE, self.TWO, "红茶"])
        assert len(build_index(dataset(tmp_path)).classes) == 3
        assert "2 classes look alike and are told apart: cafe\\u0301 and caf\\u00e9; rename" in caplog.text


def test_request_names_what_a_root_without_classes_has(tmp_path):
    touch(tmp_path, "1.heic")
    with pytest.raises(RequestError, match="has no folder of a class with photos"):
        options("folder", root=tmp_path).scan()
