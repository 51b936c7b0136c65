"""dataset=folder: your own photos in folders."""

import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import build_index, list_images
from tests.helpers.dataset_options import options

REAL = PROJECT.parent / "shared" / "data" / "grocery_store" / "train"


def touch(root, *files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def scan(root, **changes):
    return options("folder", root=root, **changes).scan()


def split_of(root, **changes):
    return {path: split for path, _, split in scan(root, **changes).images}


class TestClasses:
    def test_names_in_any_script_in_order(self, tmp_path):
        touch(tmp_path, "红茶/b.jpg", "红茶/a.PNG", "чай/1.JPEG", "a b.c/1.jpg", "शक्कर/1.webp")
        assert scan(tmp_path).images == [
            ("a b.c/1.jpg", "a b.c", None),
            ("чай/1.JPEG", "чай", None),
            ("शक्कर/1.webp", "शक्कर", None),
            ("红茶/a.PNG", "红茶", None),
            ("红茶/b.jpg", "红茶", None),
        ]

    @pytest.mark.parametrize(
        ("depth", "names"),
        [
            (None, ["Fruit/Apple/Gala", "Fruit/Apple/Pink", "Fruit/Kiwi", "Milk"]),
            (1, ["Fruit", "Fruit", "Fruit", "Milk"]),
            (2, ["Fruit/Apple", "Fruit/Apple", "Fruit/Kiwi", "Milk"]),
        ],
    )
    def test_nested_folders(self, tmp_path, depth, names):
        touch(tmp_path, "Fruit/Apple/Gala/1.jpg", "Fruit/Apple/Pink/1.jpg", "Fruit/Kiwi/1.jpg", "Milk/1.jpg")
        assert [name for _, name, _ in scan(tmp_path, class_depth=depth).images] == names

    def test_photos_beside_folders_of_classes_are_noted(self, tmp_path):
        touch(tmp_path, "Fruit/1.jpg", "Fruit/Kiwi/1.jpg")
        (note,) = scan(tmp_path).notes
        assert "Fruit" in note
        assert scan(tmp_path, class_depth=1).notes == []

    def test_other_files(self, tmp_path):
        touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/Thumbs.db", "a/.cache/x.jpg", "a/notes/n.txt", ".git/x.jpg", "x.jpg")
        touch(tmp_path, "@eaDir/1.jpg/THUMB.jpg", "__MACOSX/a/._1.jpg", "x.md")
        scanned = scan(tmp_path)
        assert [path for path, _, _ in scanned.images] == ["a/1.jpg"]
        files = [".git/", "@eaDir/", "__MACOSX/", "a/._1.jpg", "a/.cache/", "a/Thumbs.db", "a/notes/n.txt", "x.md"]
        assert scanned.other_files == files
        assert scanned.unused_images == [".git/x.jpg", "@eaDir/1.jpg/THUMB.jpg", "a/.cache/x.jpg", "x.jpg"]

    @pytest.mark.parametrize("empty", ["空", "Fruit/空", "Fruit/Apple/空"])
    def test_an_empty_class_is_refused(self, tmp_path, empty):
        touch(tmp_path, "Fruit/Apple/Gala/1.jpg", "Fruit/Kiwi/1.jpg", f"{empty}/notes.txt")
        with pytest.raises(DataError, match=f"{empty}: a class of train without a photo\n"):
            scan(tmp_path)

    def test_an_empty_folder_of_a_joined_class_is_fine(self, tmp_path):
        touch(tmp_path, "Apple/first/1.jpg", "Apple/second/notes.txt")
        assert len(scan(tmp_path, class_depth=1).images) == 1

    def test_photos_without_a_class_are_refused(self, tmp_path):
        touch(tmp_path, "1.jpg", "2.jpg")
        with pytest.raises(
            RequestError, match="has no folder of a class with photos\nuse a folder with <class>/<image>"
        ):
            scan(tmp_path)

    def test_links(self, tmp_path):
        touch(tmp_path, "set/a/1.jpg", "other/2.jpg")
        (tmp_path / "set" / "b").symlink_to(tmp_path / "other")
        assert [path for path, _, _ in scan(tmp_path / "set").images] == ["a/1.jpg", "b/2.jpg"]
        (tmp_path / "other" / "up").symlink_to(tmp_path / "set")
        with pytest.raises(DataError, match=r"up.*: a link to a folder above it\nremove it"):
            scan(tmp_path / "set")
        (tmp_path / "other" / "up").unlink()
        (tmp_path / "set" / "c").symlink_to(tmp_path / "nowhere")
        with pytest.raises(DataError, match="/c: a broken link\n"):
            scan(tmp_path / "set")


class TestSplits:
    def test_names_in_any_case(self, tmp_path):
        touch(tmp_path, "Train/a/1.jpg", "VALID/a/2.jpg", "testing/a/3.jpg", "readme.md", ".DS_Store")
        assert split_of(tmp_path) == {"Train/a/1.jpg": "train", "VALID/a/2.jpg": "val", "testing/a/3.jpg": "test"}

    def test_what_stands_beside_the_splits_is_counted(self, tmp_path):
        touch(tmp_path, "train/a/1.jpg", "train/2.HEIC", "readme.md", "more/b/3.jfif", "more/b/4.txt", "more/.x/5.jpg")
        scanned = scan(tmp_path, split_folders=True)
        assert [path for path, _, _ in scanned.images] == ["train/a/1.jpg"]
        assert scanned.unused_images == ["train/2.HEIC", "more/b/3.jfif"]
        assert scanned.other_files == ["more/.x/", "more/b/4.txt", "readme.md"]

    @pytest.mark.parametrize("name", ["val", "Test"])
    def test_a_broken_link_in_place_of_a_split_is_refused(self, tmp_path, name):
        """Otherwise another val would be drawn from train."""
        touch(tmp_path, "train/a/1.jpg")
        (tmp_path / name).symlink_to("nowhere")
        with pytest.raises(DataError, match=f"/{name}: no folder, or a broken link\n"):
            scan(tmp_path)

    def test_nested_classes_are_named_below_the_split(self, tmp_path):
        touch(tmp_path, "train/Fruit/Kiwi/1.jpg", "validation/Fruit/Kiwi/2.jpg")
        assert {name for _, name, _ in scan(tmp_path).images} == {"Fruit/Kiwi"}

    def test_an_empty_class_of_test_is_fine(self, tmp_path):
        touch(tmp_path, "train/a/1.jpg")
        (tmp_path / "test" / "a").mkdir(parents=True)
        assert len(scan(tmp_path).images) == 1

    @pytest.mark.parametrize(
        "names", [("train", "Train"), ("train", "val", "validation"), ("train", "test", "testing")]
    )
    def test_two_folders_for_one_split_are_refused(self, tmp_path, names):
        touch(tmp_path, *(f"{name}/a/1.jpg" for name in names))
        with pytest.raises(RequestError, match=r"both \w+ and \w+ are folders for (train|val|test)\n"):
            scan(tmp_path)
        assert set(split_of(tmp_path, split_folders=False).values()) == {None}

    def test_a_split_beside_other_folders_is_refused_with_ways_out(self, tmp_path):
        touch(tmp_path, "train/1.jpg", "train/a/1.jpg", "apple/1.jpg")
        with pytest.raises(RequestError) as error:
            scan(tmp_path)
        first, second = str(error.value).split("\n")
        assert first == f"dataset.root={tmp_path}: train is a split's name, but apple is not"
        assert "dataset.split_folders=true" in second
        assert "dataset.split_folders=false" in second
        assert split_of(tmp_path, split_folders=True) == {"train/a/1.jpg": "train"}
        assert [name for _, name, _ in scan(tmp_path, split_folders=False).images] == ["apple", "train", "train/a"]

    def test_splits_below_another_folder_are_refused(self, tmp_path):
        """Each class would be two: set/train/a and set/test/a."""
        touch(tmp_path, "set/train/a/1.jpg", "set/train/b/1.jpg", "set/test/a/2.jpg")
        with pytest.raises(RequestError) as error:
            scan(tmp_path)
        first, second = str(error.value).split("\n")
        assert first == f"dataset.root={tmp_path}: set has the folders of splits test and train"
        assert second == f"use dataset.root={tmp_path}/set, or add dataset.split_folders=false for classes"
        assert set(split_of(tmp_path / "set").values()) == {"train", "test"}
        assert len({name for _, name, _ in scan(tmp_path, split_folders=False).images}) == 3

    def test_splits_in_each_class_are_refused(self, tmp_path):
        touch(tmp_path, *(f"{name}/{split}/1.jpg" for name in "ab" for split in ("train", "test")))
        with pytest.raises(RequestError, match="a has the folders of splits test and train\narrange the photos as"):
            scan(tmp_path)

    def test_a_class_may_be_called_like_a_split(self, tmp_path):
        touch(tmp_path, "tools/test/1.jpg", "tools/train/1.jpg", "toys/train/1.jpg")
        with pytest.raises(RequestError, match="tools has"):
            scan(tmp_path)
        touch(tmp_path / "other", "tools/test/1.jpg", "toys/train/1.jpg")
        assert len(scan(tmp_path / "other").images) == 2

    def test_splits_without_train_are_refused(self, tmp_path):
        touch(tmp_path, "val/a/1.jpg", "test/a/1.jpg")
        with pytest.raises(RequestError, match=r"has no folder train beside test\n.*split_folders=false"):
            scan(tmp_path)


@pytest.mark.usefixtures("data_folder")
class TestIndex:
    @pytest.fixture
    def fill(self, tmp_path, write_photo):
        """fill(prefix, n): write n images of each of the classes 红茶 and b; return the root."""

        def fill(prefix, count):
            for name in ("红茶", "b"):
                for i in range(count):
                    write_photo(tmp_path / "set" / prefix / name / f"{i:02}.png", seed=i)
            return tmp_path / "set"

        return fill

    def counts(self, root, **changes):
        table = build_index(options("folder", root=root, **changes)).table
        return table.groupby(["class", "split"]).size().unstack(fill_value=0).loc["红茶"].to_dict()

    def test_test_and_val_are_drawn_from_each_class(self, fill):
        root = fill("", 20)
        assert self.counts(root) == {"train": 16, "val": 2, "test": 2}
        assert self.counts(root, test_fraction=0.0) == {"train": 18, "val": 2}
        assert self.counts(root, test_fraction=0.5, val_fraction=0.5) == {"train": 5, "val": 5, "test": 10}

    @pytest.mark.parametrize(
        ("count", "expected"), [(2, {"train": 1, "val": 1}), (3, {"train": 1, "val": 1, "test": 1})]
    )
    def test_few_photos_go_to_train_then_val_then_test(self, fill, count, expected):
        root = fill("", count)
        assert {k: v for k, v in self.counts(root, test_fraction=0.9).items() if v} == expected

    def test_the_draws_are_seeded_separately(self, fill):
        root = fill("", 20)

        def split(name, **changes):
            return set(build_index(options("folder", root=root, **changes)).split(name)["path"])

        assert split("test") == split("test") == split("test", val_seed=1)
        assert split("val") != split("val", val_seed=1)
        assert split("test") != split("test", test_seed=1)

    def test_train_alone_gives_val_and_no_test(self, fill):
        assert self.counts(fill("Training", 10)) == {"train": 9, "val": 1}

    def test_train_and_test_give_val(self, fill, write_photo):
        root = fill("train", 10)
        fill("test", 3)
        assert self.counts(root) == {"train": 9, "val": 1, "test": 3}

    def test_the_depth_of_classes_is_part_of_the_fingerprint(self, fill):
        root = fill("Tea", 5)
        fill("Milk", 5)
        indices = [
            build_index(options("folder", root=root, class_depth=depth, test_fraction=0.0)) for depth in (None, 1)
        ]
        assert [len(index.classes) for index in indices] == [4, 2]
        assert indices[0].fingerprint != indices[1].fingerprint

    def test_long_tail_limits_hold_for_rp2k_alone(self, fill):
        listing = list_images(options("folder", root=fill("", 5)), decode=False)
        assert listing.long_tail_limits is None


def test_title_is_a_part_of_a_run_name(tmp_path):
    def title(name):
        return options("folder", root=tmp_path / name).title

    assert title("photos") == "photos"
    assert title("我的 照片 (neu)/") == "我的-照片-neu"
    assert title("shop/train") == "shop-train"
    assert title("!") == "photos"
    assert len(title("x" * 200)) <= 40


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"^dataset\.root: folder needs its folder\nadd dataset\.root=<folder>$"):
        options("folder").check_files()
    with pytest.raises(RequestError, match=r"^dataset\.root=.*/nowhere: there is no such folder$"):
        options("folder", root=tmp_path / "nowhere").check_files()


@pytest.mark.usefixtures("data_folder")
def test_real_nested_folders():
    if not REAL.is_dir():
        pytest.skip(f"no Grocery Store Dataset at {REAL}")
    index = build_index(options("folder", root=REAL))
    assert len(index.classes) == 81
    assert "Fruit/Apple/Golden-Delicious" in index.classes
    assert set(index.table["split"]) == {"train", "val", "test"}
    assert (index.train_counts() > 0).all()
    assert len(build_index(options("folder", root=REAL, class_depth=1)).classes) == 3
