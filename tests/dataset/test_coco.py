"""dataset=coco: crops from COCO's boxes."""

import copy
import json

import pytest

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers.dataset_options import options

pytestmark = pytest.mark.usefixtures("data_folder")

CONTENT = {
    "images": [{"id": i, "file_name": f"{name}.png", "width": 40, "height": 30} for i, name in enumerate("abcd", 1)],
    "categories": [{"id": 1, "name": "红茶"}, {"id": 2, "name": "milk"}, {"id": 9, "name": "unused"}],
    "annotations": [
        {"id": 10 + i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
        for i, (image, category, box) in enumerate(
            [
                (1, 1, [0, 0, 10, 10]), (1, 2, [20.4, 10, 10, 10]), (2, 1, [5, 5, 10, 20]), (2, 2, [1, 1, 9, 9]),
                (3, 1, [0, 0, 40, 30]), (3, 2, [30, 20, 20, 20]),
            ]
        )
    ],
}  # fmt: skip


@pytest.fixture
def photos(tmp_path, write_photo):
    for i, name in enumerate("abcd"):
        write_photo(tmp_path / "photos" / f"{name}.png", 40, 30, seed=i)
    return tmp_path / "photos"


@pytest.fixture
def coco(photos):
    """coco(edit, **changes): write photos/boxes.json with an edited content; return the options."""

    def write(edit=lambda content: None, **changes):
        content = copy.deepcopy(CONTENT)
        edit(content)
        (photos / "boxes.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
        return options("coco", annotations=photos / "boxes.json", **changes)

    return write


def annotation(index, **values):
    return lambda content: content["annotations"][index].update(values)


def test_boxes_become_crops(coco, photos):
    scan = coco().scan()
    assert scan.root == photos
    assert scan.images[:2] == [("a.png", "红茶", None), ("a.png", "milk", None)]
    assert scan.notes == ["1 photos without a box of boxes.json are left out"]
    index = build_index(coco())
    assert index.classes == ["milk", "红茶"]
    assert index.table["path"].tolist() == [
        "a.png#xywh=0,0,10,10", "a.png#xywh=20,10,11,10", "b.png#xywh=1,1,9,9", "b.png#xywh=5,5,10,20",
        "c.png#xywh=0,0,40,30", "c.png#xywh=30,20,10,10",
    ]  # fmt: skip


def test_crops_of_a_photo_stay_together(coco):
    table = build_index(coco(val_fraction=0.3)).table
    assert set(table["split"]) == {"train", "val", "test"}
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert "group" not in build_index(coco(group_by_photo=False)).table


def test_margin_is_added_within_the_photo(coco, caplog):
    caplog.set_level("INFO")
    table = build_index(coco(margin=0.1)).table
    assert table["path"].tolist()[:2] == ["a.png#xywh=0,0,11,11", "a.png#xywh=19,9,13,12"]
    assert table["path"].tolist()[-2:] == ["c.png#xywh=0,0,40,30", "c.png#xywh=29,19,11,11"]
    assert "1 boxes reach beyond" in caplog.text  # the box of c.png, not those that only their margin leads beyond
    assert "boxes.json, annotation 15" in caplog.text


@pytest.mark.parametrize("size", [{"width": 80, "height": 60}, {"width": None}, {"height": "30"}])
def test_photos_of_another_size_are_warned_about(coco, caplog, size):
    build_index(coco(lambda content: content["images"][0].update(size)))
    warning = "2 boxes are in photos of another size than listed, so they may be wrong, the first a.png#xywh=0,0,10,10"
    assert (f"{warning}: 40×30 pixels, listed as 80×60" in caplog.text) == (size.get("width") == 80)
    assert ("another size" in caplog.text) == (size.get("width") == 80)


def test_crowds_and_repeated_boxes_are_left_out_with_their_number(coco):
    def edit(content):
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"].append(content["annotations"][3] | {"id": 99})

    scan = coco(edit).scan()
    assert len(scan.images) == 5
    assert [note.split(" of ")[0] for note in scan.notes] == [
        "1 crowd regions", "1 boxes listed twice", "1 photos without a box",
    ]  # fmt: skip


def test_a_box_of_two_categories_is_refused(coco):
    with pytest.raises(DataError, match=r"annotation 11: a\.png#xywh=0,0,10,10 is a duplicate of annotation 10\n"):
        build_index(coco(annotation(1, bbox=[0, 0, 10, 10])))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (annotation(0, category_id=7), r"annotation 10: category_id=7 is no category of the file\n"),
        (annotation(2, image_id=50), r"annotation 12: image_id=50 is no photo of the file\n"),
        (annotation(2, image_id=[1]), r"annotation 12: image_id=\[1\] is no photo"),
        (annotation(0, bbox=[1, 2, 3]), r"annotation 10: bbox is not four numbers\n"),
        (annotation(0, bbox=[1, 2, 3, "4"]), r"annotation 10: bbox is not four numbers\n"),
        (annotation(0, bbox=None), r"annotation 10: bbox is not four numbers\n"),
        (lambda content: content["annotations"][0].pop("id"), r"annotation \?: has no id or image_id\n"),
        (lambda content: content["categories"][1].update(name="红茶"), r"two categories are called 红茶\n"),
        (lambda content: content["images"][1].update(id=1), r"a second photo has id 1\n"),
        (lambda content: content["images"][1].pop("file_name"), r"a photo has no id or no file_name\n"),
        (lambda content: content.pop("categories"), r"is no COCO file\n"),
        (lambda content: content.update(images=[1]), r"is no COCO file\n"),
    ],
)
def test_wrong_files_are_refused(coco, edit, reason):
    with pytest.raises(DataError, match=rf"boxes\.json[:,] {reason}") as error:
        coco(edit).scan()
    assert str(error.value).count("\n") == 1


def test_more_errors_of_a_kind_are_counted(coco):
    def edit(content):
        for i in range(3):
            content["annotations"][i]["image_id"] = 50

    with pytest.raises(DataError, match=r"annotation 10: .* \(and 2 more\)\n"):
        coco(edit).scan()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_files_that_are_no_coco(photos, content):
    (photos / "boxes.json").write_bytes(content)
    with pytest.raises(DataError, match=r"boxes\.json: (cannot be read as JSON|is no COCO file)") as error:
        options("coco", annotations=photos / "boxes.json").scan()
    assert str(error.value).count("\n") == 1


def test_missing_photos_and_boxes_outside(coco, photos):
    with pytest.raises(
        DataError, match=r"annotation 12: .*#xywh=50,0,5,5: the box lies outside of the photo of 40×30 pixels\n"
    ):
        build_index(coco(annotation(2, bbox=[50, 0, 5, 5])))
    (photos / "b.png").unlink()
    with pytest.raises(DataError, match=r"annotation 13: .*b\.png.*no such file.*\(and 1 more\)\ncorrect the path"):
        build_index(coco())


class TestSplits:
    def split_file(self, photos, write_photo, folder):
        content = copy.deepcopy(CONTENT)
        for i in range(4):
            write_photo(photos.parent / folder / f"{'abcd'[i]}.png", 40, 30, seed=10 + i)
        file = photos.parent / folder / "_annotations.json"
        file.write_text(json.dumps(content))
        return file

    def test_files_of_val_and_test_beside_their_photos(self, coco, photos, write_photo):
        val, test = (self.split_file(photos, write_photo, name) for name in ("valid", "test"))
        index = build_index(coco(val_annotations=val, test_annotations=test))
        assert index.root == photos.parent
        assert index.table["split"].value_counts().to_dict() == {"train": 6, "val": 6, "test": 6}
        assert index.split("val")["path"].iloc[0] == "valid/a.png#xywh=0,0,10,10"

    def test_roots(self, coco, photos, write_photo, tmp_path):
        val = self.split_file(photos, write_photo, "val2017")
        moved = val.rename(tmp_path / "instances_val.json")
        index = build_index(coco(root=photos, val_annotations=moved, val_root=tmp_path / "val2017"))
        assert set(index.table["split"]) == {"train", "val"}
        assert index.split("val")["path"].iloc[0].startswith("val2017/a.png")

    def test_places_name_the_right_file(self, coco, photos, write_photo):
        val = self.split_file(photos, write_photo, "valid")
        (val.parent / "c.png").unlink()
        with pytest.raises(DataError, match=r"valid/_annotations\.json, annotation 14: .*valid/c\.png"):
            build_index(coco(val_annotations=val))


def test_files_are_checked_first(coco, photos):
    for changes, message in (
        ({"annotations": None}, r"^dataset\.annotations: coco needs its file\nadd dataset\.annotations="),
        ({"annotations": photos / "x.json"}, r"^dataset\.annotations=.*x\.json: there is no such file$"),
        ({"root": photos / "x"}, r"^dataset\.root=.*/x: there is no such folder$"),
        ({"val_root": photos}, r"^dataset\.val_root=.*: has no effect without dataset\.val_annotations\n"),
    ):
        with pytest.raises(RequestError, match=message):
            coco().model_copy(update=changes).check_files()


def test_title_names_folder_and_file(coco):
    assert coco().title == "photos-boxes"
