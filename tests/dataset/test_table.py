"""dataset=table: photos and crops from a CSV or parquet file."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.image import read_image
from rp2k_lab.dataset.photo_index import build_index, list_images
from tests.helpers import corrupt_images
from tests.helpers.dataset_options import options

pytestmark = pytest.mark.usefixtures("data_folder")

GROZI = PROJECT.parent / "shared" / "data" / "grozi120" / "index.csv"
HEAD = "path,label,split"


@pytest.fixture
def photos(tmp_path, write_photo):
    """Return the folder photos/ with a.png to f.png, 40 pixels wide and 30 high."""
    for i, name in enumerate("abcdef"):
        write_photo(tmp_path / "photos" / f"{name}.png", 40, 30, seed=i)
    return tmp_path / "photos"


@pytest.fixture
def table(photos):
    """table(*lines, **changes): write photos/labels.csv; return the options of a data set."""

    def write(*lines, head=HEAD, encoding="utf-8", **changes):
        file = photos / "labels.csv"
        file.write_text("\n".join([head, *lines]) + "\n", encoding)
        return options("table", table=file, **changes)

    return write


GOOD = ("a.png,tea,train", "b.png,tea,val", "c.png,milk,train", "d.png,milk,test")


def rows(dataset):
    scan = dataset.scan()
    return scan.images


class TestColumns:
    def test_a_table_beside_its_photos(self, table, photos):
        index = build_index(table(*GOOD))
        assert index.root == photos
        assert index.table[["path", "class", "split"]].to_numpy().tolist() == [line.split(",") for line in GOOD]
        assert index.table["width"].tolist() == [40] * 4
        assert "group" not in index.table

    def test_headers_in_any_case_and_order(self, table):
        assert rows(table("x,TRAIN,tea,a.png", head="note, Split,LABEL ,Path")) == [("a.png", "tea", "train")]

    def test_a_spreadsheet(self, table):
        dataset = table('"a.png", "x, y"', "", "b.png, NA", head="path, label", encoding="utf-8-sig")
        assert rows(dataset) == [("a.png", "x, y", None), ("b.png", "NA", None)]

    def test_labels_are_read_as_written(self, table):
        assert [name for _, name, _ in rows(table("a.png,007,", "b.png,7,", "c.png,1e3,", "d.png,true,"))] == [
            "007", "7", "1e3", "true",
        ]  # fmt: skip

    def test_parquet(self, photos):
        frame = pd.DataFrame({"path": ["a.png", "b.png"], "label": [7, 11], "split": ["train", None]})
        frame.to_parquet(photos / "labels.parquet")
        dataset = options("table", table=photos / "labels.parquet")
        assert rows(dataset) == [("a.png", "7", "train"), ("b.png", "11", None)]
        frame.assign(label=pd.array([7, None], "Int64")).to_parquet(photos / "labels.parquet")
        with pytest.raises(DataError, match=r"labels\.parquet, row 2: has an empty label"):
            dataset.scan()

    def test_chosen_columns(self, table):
        head = "file,class,use,shop,walk"
        dataset = table(
            "a.png,tea,train,1,x", "b.png,tea,,1,", "c.png,tea,test,,", head=head, path_column="file",
            label_column="CLASS", split_column="use", group_columns=["shop", "walk"],
        )  # fmt: skip
        assert rows(dataset) == [("a.png", "tea", "train"), ("b.png", "tea", None), ("c.png", "tea", "test")]
        assert dataset.scan().groups == ["1 | x", "1 | ", ""]
        assert dataset.model_copy(update={"group_columns": ("shop",)}).scan().groups == ["1", "1", ""]

    def test_one_group_column_needs_no_brackets(self, table):
        assert table("a.png,tea,train", group_columns="label").scan().groups == ["tea"]

    def test_ignored_columns(self, table):
        dataset = table("a.png,tea,nonsense,1", head="path,label,split,group", split_column=None, group_columns=None)
        assert rows(dataset) == [("a.png", "tea", None)]
        assert dataset.scan().groups is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"label_column": "brand"},
                r"has no column brand\nset dataset\.label_column to one of path, label, split$",
            ),
            ({"split_column": "use"}, r"has no column use\nset dataset\.split_column to one of"),
            ({"group_columns": ["label", "scene"]}, r"has no column scene\nset dataset\.group_columns to one of"),
            ({"group_columns": ["shop"]}, r"has no column shop\n"),
        ],
    )
    def test_missing_columns_are_named(self, table, changes, message):
        with pytest.raises(RequestError, match=rf"^dataset\.table=.*labels\.csv: {message}"):
            table(*GOOD, **changes).scan()

    @pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8-sig"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_a_chinese_spreadsheet(self, table, encoding, separator):
        lines = [line.replace(",", separator) for line in (" Path ,LABEL, Split", "a.png,红枣,train", "b.png,椰子,")]
        assert rows(table(*lines[1:], head=lines[0], encoding=encoding)) == [
            ("a.png", "红枣", "train"), ("b.png", "椰子", None),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("path,label,subset", "has no column split, but subset\nset dataset.split_column to it, or to null"),
            ("path,label,Splits ", "has no column split, but splits\n"),
            ("path,label,Group ID", "has no column group, but group id\nset dataset.group_columns to it, or to null"),
        ],
    )
    def test_a_column_that_is_likely_meant_is_not_ignored(self, table, head, message):
        """Without the split, images of one shop would be drawn into train and test."""
        values = ("walk 1", "walk 2") if "Group" in head else ("train", "Test")
        dataset = table(*(f"{name}.png,tea,{value}" for name, value in zip("ab", values, strict=True)), head=head)
        with pytest.raises(RequestError, match=message.replace("\n", "\\n")):
            dataset.scan()
        ignoring = {"split_column": None, "group_columns": None}
        assert len(rows(dataset.model_copy(update=ignoring))) == 2

    def test_unused_columns_and_twins_in_case_are_noted(self, table):
        scan = table("a.png,tea,train,3", "b.png,Tea,,4", head="path,label,split,Price").scan()
        assert scan.notes == ["1 labels differ from others in case alone, the first tea and Tea",
                              "columns not used: price"]  # fmt: skip
        assert table("a.png,tea,train").scan().notes == []

    def test_paths_elsewhere(self, table, photos, tmp_path, write_photo):
        other = write_photo(tmp_path / "other" / "z.png")
        dataset = table(f"{photos}/a.png,tea,train", "./b.png,tea,train", f"{other},tea,val")
        index = build_index(dataset)
        assert index.table["path"].tolist() == [str(other), "a.png", "b.png"]
        assert all((index.root / path).is_file() for path in index.table["path"])
        assert rows(table("photos/a.png,tea,", root=tmp_path)) == [("photos/a.png", "tea", None)]


class TestWrongRows:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("e.png,tea,trian", r"line 6: trian is no split \(and 1 more\)\nuse train, .*dataset\.split_column=null"),
            ("e.png,,train", r"line 6: has an empty label \(and 1 more\)\n"),
            (",tea,train", r"line 6: has an empty path \(and 1 more\)\n"),
            ("e.png", r"line 6: has an empty label"),
        ],
    )
    def test_are_named_with_their_line_and_number(self, table, line, reason):
        with pytest.raises(DataError, match=rf"labels\.csv, {reason}") as error:
            table(*GOOD, line, line).scan()
        assert str(error.value).count("\n") == 1

    def test_duplicates(self, table):
        with pytest.raises(
            DataError, match=r"line 6: a\.png is a duplicate of line 2 \(and 1 more\)\nkeep one of them"
        ):
            build_index(table(*GOOD, "./a.png,milk,train", "a.png,tea,train"))

    def test_missing_files(self, table, photos):
        dataset = table(*GOOD, "x.png,tea,train", "y.png,tea,train")
        with pytest.raises(DataError) as error:
            build_index(dataset)
        assert str(error.value) == (
            f"{photos}/labels.csv, line 6: {photos}/x.png: no such file, or a broken link (and 1 more)\n"
            "correct the path, or set dataset.root to the folder that the paths start at"
        )
        index = build_index(dataset.model_copy(update={"on_bad_image": "skip"}))
        assert index.skipped["path"].tolist() == ["x.png", "y.png"]

    def test_unreadable_photos(self, table, photos):
        (photos / "e.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"line 6: .*/e\.png: neither JPEG"):
            build_index(table(*GOOD, "e.png,tea,train"))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", ": is empty"),
            (b"path,label\na.png,K\xe4se\n", ": neither UTF-8 nor UTF-16 nor GB18030"),
            (b"path,label\na.png,Chocolate, dark\n", ", line 2: has 3 cells, more than the header's 2"),
            (b"path,label\na.png,tea\nb.png,Chocolate, dark\n", ", line 3: has 3 cells"),
            (b"path,label\n", ": has no rows"),
            (b"path,label,Path\na.png,tea,b.png\n", ": has two columns path"),
            (b"path,label\na.png,6.90123E+12\n", ", line 2: 6.90123E\\+12 is not what was typed"),
            (b"path,label\na.png,tea\nb.png,#NAME?\n", ", line 3: #NAME\\? is not what was typed"),
            (b'path,label\na.png,tea\nb.png,"tea "\n', ", line 3: tea  and the label 'tea' differ in spaces alone"),
        ],
    )
    def test_other_files(self, photos, content, reason):
        (photos / "labels.csv").write_bytes(content)
        with pytest.raises(DataError, match=rf"labels\.csv{reason}") as error:
            options("table", table=photos / "labels.csv").scan()
        assert str(error.value).count("\n") == 1

    def test_a_parquet_that_is_none(self, photos):
        (photos / "labels.parquet").write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"labels\.parquet: cannot be read as a table"):
            options("table", table=photos / "labels.parquet").scan()

    def test_a_zero_byte_in_a_path(self, table):
        with pytest.raises(DataError, match=r"line 6: .*no such file"):
            build_index(table(*GOOD, "a\0.png,tea,train"))

    def test_files_are_checked_first(self, photos):
        for changes, message in (
            ({}, r"^dataset\.table: table needs its file\nadd dataset\.table="),
            ({"table": photos / "x.csv"}, r"x\.csv: there is no such file$"),
            ({"table": photos / "a.png"}, r"a\.png: neither \.csv nor \.parquet\n"),
        ):
            with pytest.raises(RequestError, match=message):
                options("table", **changes).check_files()


class TestSplits:
    def test_spellings(self, table):
        splits = ["Train", " training ", "VALID", "validation", "test", "Testing", ""]
        lines = [f"{name}.png,tea,{split}" for name, split in zip("abcdefg", splits, strict=True)]
        assert [split for *_, split in rows(table(*lines))] == ["train", "train", "val", "val", "test", "test", None]

    def test_photos_without_a_split_are_drawn(self, tmp_path, write_photo):
        for i in range(20):
            write_photo(tmp_path / f"{i}.png", seed=i)
        (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{i}.png,tea\n" for i in range(20)))
        index = build_index(options("table", table=tmp_path / "t.csv"))
        assert index.table["split"].value_counts().to_dict() == {"train": 16, "val": 2, "test": 2}

    def test_given_splits_are_not_drawn_from_or_added_to(self, table):
        index = build_index(table("a.png,tea,val", "b.png,tea,", "c.png,tea,", "d.png,tea,test"))
        assert index.table["split"].tolist() == ["val", "train", "train", "test"]

    def test_the_order_of_the_rows_means_nothing(self, tmp_path, write_photo):
        lines = [f"{i}.png,{'tea' if i % 2 else 'milk'}" for i in range(20)]
        for i in range(20):
            write_photo(tmp_path / f"{i}.png", seed=i)
        indices = []
        for order in (lines, lines[::-1]):
            (tmp_path / "t.csv").write_text("\n".join(["path,label", *order]) + "\n")
            indices.append(build_index(options("table", table=tmp_path / "t.csv")))
        assert indices[0].fingerprint == indices[1].fingerprint
        pd.testing.assert_frame_equal(indices[0].table, indices[1].table)

    def test_a_label_is_part_of_the_fingerprint(self, table):
        before = build_index(table(*GOOD))
        after = build_index(table(*GOOD[:3], "d.png,tea,test"))
        assert before.fingerprint != after.fingerprint
        assert before.version == after.version

    def test_a_group_stays_together_and_its_photos_take_its_split(self, table):
        head = "path,label,split,group"
        lines = ["a.png,tea,test,1", "b.png,tea,,1", "c.png,tea,,2", "d.png,tea,,2", "e.png,tea,,", "f.png,tea,,"]
        index = build_index(table(*lines, head=head))
        split = dict(zip(index.table["path"], index.table["split"], strict=True))
        assert split["b.png"] == "test"
        assert split["c.png"] == split["d.png"]
        assert index.table["group"].tolist() == ["1", "1", "2", "2", "", ""]

    def test_a_divided_group_is_counted(self, table, caplog):
        lines = ["a.png,tea,test,1", "b.png,tea,train,1", "c.png,tea,val,2", "d.png,tea,train,3"]
        build_index(table(*lines, head="path,label,split,group"))
        assert "1 of 3 groups are divided between splits" in caplog.text
        assert "1 (test and train)" in caplog.text

    def test_one_group_a_class_gives_no_val(self, table):
        lines = ["a.png,tea,1", "b.png,tea,1", "c.png,milk,2"]
        with pytest.raises(DataError, match="no photo for val, since each class has one group\n"):
            build_index(table(*lines, head="path,label,group"))


class TestCrops:
    HEAD = "path,label,split,x,y,width,height"

    def test_are_cut_from_their_photo(self, table, photos):
        index = build_index(
            table("a.png,tea,train,5,6,10,20", "a.png,milk,train,0,0,40,30", "b.png,tea,val,,,,", head=self.HEAD)
        )
        assert index.table["path"].tolist() == ["a.png#xywh=0,0,40,30", "a.png#xywh=5,6,10,20", "b.png"]
        assert index.table[["width", "height"]].to_numpy().tolist() == [[40, 30], [10, 20], [40, 30]]
        crop = read_image(index.root / index.table["path"][1])
        np.testing.assert_array_equal(crop, read_image(photos / "a.png")[6:26, 5:15])

    def test_fractions_of_pixels(self, table):
        index = build_index(table("a.png,tea,train,5.5,6.0,10,3.25", "b.png,tea,val,1e0,1,0.2,0.2", head=self.HEAD))
        assert index.table["path"].tolist() == ["a.png#xywh=5,6,11,4", "b.png#xywh=1,1,1,1"]

    def test_beyond_the_border_are_clipped_and_counted(self, table, caplog):
        caplog.set_level("INFO")
        lines = ("a.png,tea,train,-5,-5,10,10", "b.png,tea,val,30,20,100,100", "c.png,tea,val,0,0,40,30.4")
        index = build_index(table(*lines, head=self.HEAD))
        assert index.table["path"].tolist() == ["a.png#xywh=0,0,5,5", "b.png#xywh=30,20,10,10", "c.png#xywh=0,0,40,30"]
        assert "2 boxes reach beyond their photo and are clipped, the first " in caplog.text
        assert "labels.csv, line 2: a.png#xywh=0,0,5,5" in caplog.text

    @pytest.mark.parametrize(
        ("box", "reason"),
        [
            ("40,0,10,10", "b.png#xywh=40,0,10,10: the box lies outside of the photo of 40×30 pixels"),
            ("0,-20,10,10", "b.png#xywh=0,-20,10,10: the box lies outside"),
            ("1,1,0,10", "a box without area"),
            ("1,1,10,-3", "a box without area"),
            ("1e300,1,1,1", "lies outside"),
        ],
    )
    def test_outside_or_without_area(self, table, box, reason):
        lines = (
            f"b.png,tea,train,{box}",
            f"c.png,tea,val,{box}",
            "b.png,tea,train,60,60,9,9",
            "b.png,tea,train,70,70,9,9",
        )
        dataset = table("a.png,tea,train,0,0,9,9", *lines, head=self.HEAD)
        with pytest.raises(DataError, match=rf"labels\.csv, line 3: .*{reason}.*\(and 3 more\)\n"):
            build_index(dataset)
        listing = list_images(dataset, decode=True)  # task=inspect lists them
        assert listing.table["problem"].notna().sum() == 4

    @pytest.mark.parametrize("box", ["5,5,ten,10", "5,5,,10", "nan,5,10,10", "inf,5,10,10", "5;5;10;10,,,"])
    def test_no_numbers(self, table, box):
        with pytest.raises(DataError, match=r"labels\.csv, line 3: x,y,width,height=.*: a box has four numbers\n"):
            table("a.png,tea,train,0,0,9,9", f"b.png,tea,train,{box}", head=self.HEAD).scan()

    def test_duplicates(self, table):
        lines = ("a.png,tea,train,0,0,9,9", "a.png,tea,val,0,0,9,8", "a.png,milk,train,-1,0,10,9")
        with pytest.raises(DataError, match=r"line 4: a\.png#xywh=0,0,9,9 is a duplicate of line 2\n"):
            build_index(table(*lines, head=self.HEAD))

    def test_width_and_height_alone_are_no_box(self, table):
        """GroZi's table has the photos' sizes."""
        dataset = table("a.png,tea,train,9,9", head="path,label,split,width,height")
        assert dataset.scan().boxes is None

    def test_x_and_y_alone_are_noted(self, table):
        scan = table("a.png,tea,train,9,9", head="path,label,split,x,y").scan()
        assert scan.boxes is None
        assert "whole photos are used" in scan.notes[0]

    def test_crops_without_groups_are_noted_if_val_is_drawn(self, table):
        lines = ("a.png,tea,,0,0,9,9", "b.png,tea,,0,0,9,9")
        assert "dataset.group_columns=[path]" in table(*lines, head=self.HEAD).scan().notes[0]
        assert table(*lines, head=self.HEAD, group_columns=["path"]).scan().groups == ["a.png", "b.png"]

    def test_a_path_may_name_a_crop(self, table, photos):
        Image.new("RGB", (8, 8)).save(photos / "x.png#xywh=0,0,4,4", "PNG")  # a file of this name
        lines = ("a.png#xywh=1,2,3,4,tea,train", "b.png,tea,val", "x.png#xywh=0,0,4,4,tea,train")
        index = build_index(table(*(line if "#" not in line else f'"{line[:-10]}",tea,train' for line in lines)))
        assert index.table["path"].tolist() == ["a.png#xywh=1,2,3,4", "b.png", "x.png#xywh=0,0,4,4"]
        assert index.table["width"].tolist() == [3, 40, 8]

    def test_turned_photos_are_cut_upright(self, table, photos):
        Image.fromarray(np.asarray(Image.open(photos / "a.png"))).save(
            photos / "turned.jpg", quality=95, exif=corrupt_images.oriented(6)
        )
        index = build_index(
            table("turned.jpg,tea,train,0,20,30,20", "b.png,tea,val,0,0,9,9", head=self.HEAD)
        )  # upright, it is 30 wide and 40 high
        path = index.table["path"][1]
        assert path == "turned.jpg#xywh=0,20,30,20"
        np.testing.assert_array_equal(read_image(index.root / path), read_image(photos / "turned.jpg")[20:40])

    def test_each_file_is_read_once(self, table, monkeypatch):
        import rp2k_lab.dataset.listing as module

        read, original = [], module._decoded_header
        monkeypatch.setattr(module, "_decoded_header", lambda path: read.append(path) or original(path))
        lines = [f"a.png,tea,{'val' if i else 'train'},{i},0,9,9" for i in range(20)]
        list_images(table(*lines, head=self.HEAD), decode=True)
        assert len(read) == 1


def test_two_tables_of_one_folder_have_separate_header_caches(photos, data_folder):
    for name in ("one", "two"):
        (photos / f"{name}.csv").write_text(f"path,label,split\na.png,{name},train\nb.png,{name},val\n")
        build_index(options("table", table=photos / f"{name}.csv"))
    assert len(list((data_folder / "index").iterdir())) == 2


def test_title_names_folder_and_table(photos, tmp_path):
    assert options("table", table=photos / "labels v2.csv").title == "photos-labels-v2"
    assert options("table", table=photos / "labels.csv", root=tmp_path / "shop").title == "shop-labels"


class TestGrozi:
    @pytest.fixture(autouse=True)
    def _need(self):
        if not GROZI.is_file():
            pytest.skip(f"no GroZi-120 at {GROZI}")

    def test_its_index_is_read(self):
        index = build_index(options("table", table=GROZI))
        assert len(index.classes) == 120
        assert (index.table["split"] != "test").sum() == 7060
        assert len(index.split("test")) == 3793

    def test_scenes_stay_together(self):
        index = build_index(options("table", table=GROZI, group_columns=["label", "scene"]))
        chosen = index.table[index.table["split"] != "test"]
        assert (chosen.groupby("group")["split"].nunique() == 1).all()
        assert index.split("val")["class"].nunique() == 60  # the other products have one scene in train
        assert 0.05 < len(index.split("val")) / len(chosen) < 0.15
        assert (index.train_counts() > 0).all()
