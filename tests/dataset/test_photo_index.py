import hashlib
import os
import shutil

import pandas as pd
import pytest

import rp2k_lab.dataset.listing as listing_module
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import Index, build_index
from tests.helpers.dataset_options import dataset

pytestmark = pytest.mark.usefixtures("data_folder")

COUNTS = {"555（冰炫）": 20, "伊利安慕希瓶装芒果+百香果230g": 5, "a b.c": 2, "单": 1}


@pytest.fixture
def root(tmp_path, write_photo):
    """Return a set: four classes of 20, 5, 2 and 1 images in train, one of each in test; no val."""
    root = tmp_path / "RP2K"
    for name, count in COUNTS.items():
        for i in range(count):
            write_photo(root / "train" / name / f"{i:03}.{'png' if i % 3 else 'jpg'}", 8 + i, 12, seed=i)
        write_photo(root / "test" / name / "t.jpg")
    return root


def checksums(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(f.relative_to(folder)): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files
    }


def test_table_of_a_small_set(root):
    index = build_index(dataset(root))
    assert index.root == root
    assert index.classes == sorted(COUNTS)
    assert list(index.table.columns) == ["path", "class", "label", "split", "width", "height", "bytes"]
    assert [index.classes[label] for label in index.table["label"]] == index.table["class"].tolist()
    row = index.table[index.table["path"] == "train/555（冰炫）/007.png"].iloc[0]
    assert (row["width"], row["height"]) == (15, 12)
    assert len(index.split("test")) == 4
    assert index.split("test").index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [6, 11])
def test_balanced_photos_have_no_tail(tmp_path, write_photo, count):
    """Nor after val is drawn from some classes more than from others."""
    for name in "abcdefg":
        for i in range(count + (name > "d")):
            write_photo(tmp_path / "set" / "train" / name / f"{i}.png", seed=i)
    index = build_index(dataset(tmp_path / "set"))
    assert set(index.class_groups()[0]) == {"medium"}


@pytest.mark.parametrize(("name", "said"), [("单", False), ("A b.C ", True), ("others", False)])
def test_a_catch_all_class_that_is_written_otherwise_is_said(root, caplog, name, said):
    """Without the line its photos would count as a product's."""
    build_index(dataset(root, catch_all_class=name))
    assert ("the data set has no such class, but a b.c" in caplog.text) == said


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines"])
def test_a_class_name_of_two_lines_is_refused(root, name):
    (root / "train" / "单").rename(root / "train" / name)
    shutil.rmtree(root / "test")
    with pytest.raises(DataError, match="has a line break"):
        build_index(dataset(root))


def test_paths_open_from_the_root(root):
    index = build_index(dataset(root))
    assert all((index.root / path).is_file() for path in index.table["path"])


def test_train_counts(root):
    index = build_index(dataset(root))
    assert dict(zip(index.classes, index.train_counts(), strict=True)) == {
        "555（冰炫）": 16, "伊利安慕希瓶装芒果+百香果230g": 4, "a b.c": 1, "单": 1,
    }  # fmt: skip


def test_train_counts_include_every_class(tmp_path):
    table = pd.DataFrame({"label": [0, 1], "split": ["train", "val"]})
    assert Index(tmp_path, table, ["a", "b", "c"], "", "", table[:0]).train_counts().tolist() == [1, 0, 0]


def test_folder_is_never_written(root):
    before = checksums(root)
    build_index(dataset(root))
    build_index(dataset(root))
    assert checksums(root) == before


class TestVal:
    def test_a_val_folder_is_used_unchanged(self, root, write_photo):
        write_photo(root / "val" / "a b.c" / "v.jpg")
        index = build_index(dataset(root))
        assert index.split("val")["path"].tolist() == ["val/a b.c/v.jpg"]
        assert len(index.split("train")) == sum(COUNTS.values())

    def test_none_possible(self, tmp_path, write_photo):
        for name in "ab":
            write_photo(tmp_path / "set" / "train" / name / "1.jpg")
        with pytest.raises(DataError, match="val"):
            build_index(dataset(tmp_path / "set"))


class TestUnusable:
    def test_empty_class(self, root):
        (root / "train" / "空").mkdir()
        with pytest.raises(DataError, match="空"):
            build_index(dataset(root))

    def test_train_without_classes(self, tmp_path):
        (tmp_path / "set" / "train").mkdir(parents=True)
        with pytest.raises(DataError, match="set"):
            build_index(dataset(tmp_path / "set"))

    def test_missing_train(self, root):
        shutil.rmtree(root / "train")
        with pytest.raises(RequestError, match="train"):
            build_index(dataset(root))

    def test_test_class_unknown_to_train(self, root, write_photo):
        write_photo(root / "test" / "新品" / "1.jpg")
        with pytest.raises(DataError, match="新品"):
            build_index(dataset(root))

    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff\xe0broken"])
    def test_image_without_a_header(self, root, content):
        (root / "train" / "a b.c" / "坏.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"坏\.jpg"):
            build_index(dataset(root))

    def test_messages_have_at_most_two_lines(self, root, write_photo):
        write_photo(root / "test" / "新品" / "1.jpg")
        with pytest.raises(DataError) as error:
            build_index(dataset(root))
        assert len(str(error.value).splitlines()) <= 2


class TestHeaderCache:
    @pytest.fixture
    def headers_read(self, monkeypatch):
        """Return the list of images whose header was read."""
        read, original = [], listing_module._header

        def header(path):
            read.append(os.path.basename(path))
            return original(path)

        monkeypatch.setattr(listing_module, "_header", header)
        return read

    def test_second_build_reads_no_header_and_is_equal(self, root, headers_read):
        first = build_index(dataset(root))
        assert len(headers_read) == 32
        headers_read.clear()
        second = build_index(dataset(root))
        assert headers_read == []
        pd.testing.assert_frame_equal(first.table, second.table)
        assert (first.classes, first.fingerprint) == (second.classes, second.fingerprint)

    def test_changed_image_is_read_again(self, root, headers_read, write_photo):
        build_index(dataset(root))
        headers_read.clear()
        write_photo(root / "train" / "单" / "000.jpg", 33, 44)
        table = build_index(dataset(root)).table
        assert headers_read == ["000.jpg"]
        row = table[table["path"] == "train/单/000.jpg"].iloc[0]
        assert (row["width"], row["height"]) == (33, 44)

    def test_image_of_the_same_size_and_a_later_time_is_read_again(self, root, headers_read):
        build_index(dataset(root))
        headers_read.clear()
        file = root / "train" / "单" / "000.jpg"
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
        build_index(dataset(root))
        assert headers_read == ["000.jpg"]

    def test_a_corrupt_image_is_read_each_time(self, root, headers_read):
        (root / "train" / "单" / "坏.jpg").write_bytes(b"no image")
        for _ in range(2):
            headers_read.clear()
            with pytest.raises(DataError, match=r"坏\.jpg"):
                build_index(dataset(root))
        assert headers_read == ["坏.jpg"]

    def test_added_and_removed_images(self, root, headers_read, write_photo):
        build_index(dataset(root))
        headers_read.clear()
        write_photo(root / "train" / "单" / "new.jpg")
        (root / "train" / "a b.c" / "000.jpg").unlink()
        table = build_index(dataset(root)).table
        assert headers_read == ["new.jpg"]
        assert "train/a b.c/000.jpg" not in set(table["path"])
        assert len(table) == 32

    def test_is_only_in_the_data_folder(self, root, data_folder):
        build_index(dataset(root))
        assert [file.suffix for file in (data_folder / "index").iterdir() if file.suffix != ".lock"] == [".parquet"]

    def test_two_folders_of_one_name_have_separate_caches(self, root, tmp_path, headers_read):
        shutil.copytree(root, tmp_path / "copy" / "RP2K")
        build_index(dataset(root))
        build_index(dataset(tmp_path / "copy" / "RP2K"))
        headers_read.clear()
        build_index(dataset(root))
        assert headers_read == []

    def test_a_damaged_file_is_replaced(self, root, data_folder):
        """A full disk or a kill must not block every later run."""
        first = build_index(dataset(root))
        (file,) = (data_folder / "index").glob("*.parquet")
        file.write_bytes(b"")
        pd.testing.assert_frame_equal(build_index(dataset(root)).table, first.table)


class TestFingerprint:
    def test_is_equal_for_a_copy_elsewhere(self, root, tmp_path):
        shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
        assert build_index(dataset(tmp_path / "elsewhere")).fingerprint == build_index(dataset(root)).fingerprint

    def test_changes_with_a_files_size(self, root):
        before = build_index(dataset(root)).fingerprint
        with (root / "test" / "单" / "t.jpg").open("ab") as file:
            file.write(b"\0")
        assert build_index(dataset(root)).fingerprint != before

    def test_changes_with_the_val_split(self, root):
        assert build_index(dataset(root)).fingerprint != build_index(dataset(root, val_seed=1)).fingerprint

    def test_changes_with_a_name(self, root):
        before = build_index(dataset(root)).fingerprint
        (root / "test" / "单" / "t.jpg").rename(root / "test" / "单" / "u.jpg")
        assert build_index(dataset(root)).fingerprint != before


class TestFold:
    def test_each_training_image_is_left_out_of_one_fold_and_all_else_stays(self, root):
        whole = build_index(dataset(root))
        folds = [build_index(dataset(root, fold=f"{i}/2")) for i in (1, 2)]
        paths = set(whole.split("train")["path"])
        left_out = [paths - set(fold.split("train")["path"]) for fold in folds]
        assert not left_out[0] & left_out[1]
        single = {path for path in paths if path.split("/")[1] in ("a b.c", "单")}  # train has one of each, val another
        assert left_out[0] | left_out[1] == paths - single
        for fold in folds:
            assert fold.classes == whole.classes
            for split in ("val", "test"):
                assert fold.split(split)["path"].tolist() == whole.split(split)["path"].tolist()

    def test_is_part_of_the_fingerprint(self, root):
        folds = [None, "1/2", "2/2", "1/3"]
        assert len({build_index(dataset(root, fold=fold)).fingerprint for fold in folds}) == 4
