import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.dataset.source.grocery_store import scan_lists
from tests.helpers.dataset_options import dataset

REAL = PROJECT.parent / "shared" / "data" / "grocery_store"


@pytest.fixture
def store(tmp_path, write_photo):
    """Return a folder like the published repository's: two classes, lists for train and val."""
    root = tmp_path / "store"
    for i, path in enumerate(
        ["train/Fruit/Apple_1.jpg", "train/Fruit/Apple_2.jpg", "train/Milk/M_1.jpg", "val/Milk/M_9.jpg"]
    ):
        write_photo(root / path, 8 + i, 12)
    (root / "classes.csv").write_text(
        "Class Name (str),Class ID (int),Coarse Class Name (str)\nMilk,7,Dairy\nApple,0,Fruit\n"
    )
    (root / "train.txt").write_text(
        "train/Fruit/Apple_1.jpg, 0, 0\ntrain/Fruit/Apple_2.jpg, 0, 0\n\ntrain/Milk/M_1.jpg, 7, 1\n"
    )
    (root / "val.txt").write_text("val/Milk/M_9.jpg, 7, 1\n")
    return root


def test_lists_images_with_the_names_of_fine_labels(store):
    scan = scan_lists(store)
    assert scan.other_files == []
    assert scan.images == [
        ("train/Fruit/Apple_1.jpg", "Apple", "train"),
        ("train/Fruit/Apple_2.jpg", "Apple", "train"),
        ("train/Milk/M_1.jpg", "Milk", "train"),
        ("val/Milk/M_9.jpg", "Milk", "val"),
    ]


@pytest.mark.parametrize("needed", ["classes.csv", "train.txt"])
def test_missing_list_is_a_wrong_request(store, needed):
    (store / needed).unlink()
    with pytest.raises(RequestError, match=needed):
        scan_lists(store)


@pytest.mark.parametrize("line", ["train/a.jpg, 0", "train/a.jpg, x, 0", "train/a.jpg, 5, 0", "train/a.jpg"])
def test_wrong_line_is_named_with_its_number(store, line):
    with (store / "train.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"train\.txt, line 5"):
        scan_lists(store)


@pytest.mark.parametrize(
    "content", [b"", b"Name,Number\nMilk,7\n", "Class Name (str),Class ID (int)\n奶,7".encode("gbk")]
)
def test_invalid_table_of_classes(store, content):
    (store / "classes.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.csv: no table with 'Class ID \(int\)'.*\n.*repository"):
        scan_lists(store)


def test_list_that_is_not_utf8(store):
    (store / "val.txt").write_bytes("val/奶/1.jpg, 7, 1\n".encode("gbk"))
    with pytest.raises(DataError, match=r"val\.txt: cannot be read \(.*utf-8.*\)\n"):
        scan_lists(store)


@pytest.mark.usefixtures("data_folder")
class TestIndex:
    def test_small_folder(self, store):
        index = build_index(dataset(store, name="grocery_store"))
        assert index.classes == ["Apple", "Milk"]
        assert index.table["label"].tolist() == [0, 0, 1, 1]
        assert index.table["split"].tolist() == ["train", "train", "train", "val"]
        assert index.table["width"].tolist() == [8, 9, 10, 11]
        assert index.coarse_classes == {"Milk": "Dairy", "Apple": "Fruit"}

    def test_missing_image_is_named(self, store):
        (store / "train/Fruit/Apple_2.jpg").unlink()
        with pytest.raises(DataError, match=r"Apple_2\.jpg"):
            build_index(dataset(store, name="grocery_store"))

    def test_image_listed_twice_is_refused(self, store):
        with (store / "train.txt").open("a") as file:
            file.write("train/Milk/M_1.jpg, 7, 1\n")
        with pytest.raises(DataError, match=r"train/Milk/M_1\.jpg twice"):
            build_index(dataset(store, name="grocery_store"))

    def test_real_folder(self):
        if not REAL.is_dir():
            pytest.skip(f"no Grocery Store Dataset at {REAL}")
        index = build_index(dataset(REAL, name="grocery_store"))
        assert index.table["split"].value_counts().to_dict() == {"train": 2640, "val": 296}
        assert len(index.classes) == 81
        assert (index.train_counts() > 0).all()
        assert len(set(index.coarse_classes.values())) == 43
