"""Crops wherever a path of an image is read."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.crops import Box, crop_path, file_of, split_crop
from rp2k_lab.dataset.image import fit, problem_of, read_image, read_resized, read_shrunk, read_views, stretch
from rp2k_lab.dataset.image_cache import open_cache
from rp2k_lab.dataset.loader import ImageViews, ResizedImages
from rp2k_lab.dataset.near_duplicates import find_copies
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.pages.images import ImageEmbedder
from rp2k_lab.task.inputs import find_images, readable_views
from tests.helpers import corrupt_images
from tests.helpers.dataset_options import options

BOX = Box(100, 60, 320, 240)


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """Return smooth(suffix, **options): a photo of 640 × 480 pixels without fine detail."""
    rows, columns = np.mgrid[:480, :640]
    pixels = np.stack([rows / 2, columns / 3, 127 + 100 * np.sin((rows + columns) / 60)], axis=2).astype(np.uint8)
    folder = tmp_path_factory.mktemp("smooth")

    def write(suffix, **options):
        file = folder / f"p{len(list(folder.iterdir()))}{suffix}"
        Image.fromarray(pixels).save(file, **options)
        return file

    return write


def test_names():
    assert crop_path("a b.jpg", Box(1, 2, 3, 4)) == "a b.jpg#xywh=1,2,3,4"
    assert split_crop("a.jpg#xywh=1,2,3,4") == ("a.jpg", (1, 2, 3, 4))
    for name in ("a.jpg", "a#1.jpg", "a.jpg#xywh=1,2,3", "a.jpg#xywh=-1,2,3,4", "a.jpg#xywh=1,2,3,4.jpg"):
        assert split_crop(name) == (name, None)


def test_part_within_an_image():
    assert Box(30, 20, 20, 20).within(30, 40) == (30, 20, 10, 10)
    assert Box(40, 0, 5, 5).within(30, 40) is None
    assert Box(0, 0, 0, 5).within(30, 40) is None


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_pixels_are_those_of_the_photo(smooth, suffix):
    file = smooth(suffix)
    path = crop_path(str(file), BOX)
    whole = read_image(file)[60:300, 100:420]
    np.testing.assert_array_equal(read_image(path), whole)
    assert problem_of(path) is None
    if suffix != ".jpg":
        np.testing.assert_array_equal(read_resized(path, (64, 64), "letterbox"), fit(whole, (64, 64)))
        np.testing.assert_array_equal(read_shrunk(path, 10), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_are_cut_upright(smooth, orientation):
    file = smooth(".jpg", quality=95, exif=corrupt_images.oriented(orientation))
    whole = read_image(file)[60:300, 100:420]
    np.testing.assert_array_equal(read_image(crop_path(str(file), BOX)), whole)
    small = read_resized(crop_path(str(file), BOX), (60, 80), "stretch").astype(int)
    assert np.abs(small - stretch(whole, (60, 80))).mean() < 2


@pytest.mark.parametrize(
    ("size", "reduction"),
    [((240, 320), 1), ((121, 160), 1), ((120, 160), 2), ((60, 80), 4), ((30, 40), 8), ((8, 8), 8)],
)
def test_a_jpeg_is_reduced_only_if_the_crop_stays_large_enough(smooth, size, reduction, monkeypatch):
    import rp2k_lab.dataset.image as module

    decoded, original = [], module.simplejpeg.decode_jpeg
    monkeypatch.setattr(
        module.simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(original(*a, **k)) or decoded[-1]
    )
    path = crop_path(str(smooth(".jpg", quality=95)), BOX)
    image = read_resized(path, size, "stretch").astype(int)
    assert decoded[0].shape == (480 // reduction, 640 // reduction, 3)
    assert image.shape == (*size, 3)
    assert np.abs(image - stretch(read_image(path), size)).mean() < 3


def test_views_equal_single_reads(smooth):
    path = crop_path(str(smooth(".jpg")), BOX)
    views = [((64, 64), "letterbox"), ((200, 200), "stretch")]
    for image, (size, resize) in zip(read_views(path, views), views, strict=True):
        np.testing.assert_array_equal(image, read_resized(path, size, resize))


def test_shrunk_keeps_the_least_side(smooth):
    path = crop_path(str(smooth(".jpg")), BOX)
    assert read_shrunk(path, 60).shape == (60, 80, 3)
    assert read_shrunk(path, 61).shape == (120, 160, 3)


def test_a_tiny_crop_of_a_reduced_jpeg_has_a_pixel(smooth):
    file = smooth(".jpg")
    for box in (Box(639, 479, 1, 1), Box(3, 7, 1, 200)):
        assert min(read_resized(crop_path(str(file), box), (1, 1), "stretch").shape[:2]) == 1
        assert problem_of(crop_path(str(file), box)) is None


def test_a_file_of_that_name_comes_first(tmp_path, write_photo):
    write_photo(tmp_path / "a.png", 40, 30)
    name = tmp_path / "a.png#xywh=0,0,5,5"
    assert read_image(name).shape == (5, 5, 3)
    assert file_of(name) == (str(tmp_path / "a.png"), (0, 0, 5, 5))
    Image.new("RGB", (7, 9)).save(name, "PNG")
    assert read_image(name).shape == (9, 7, 3)
    assert file_of(name) == (str(name), None)
    assert read_image(write_photo(tmp_path / "b#1.png", 3, 4)).shape == (4, 3, 3)


def test_a_long_name_may_have_crops(tmp_path, write_photo):
    file = write_photo(tmp_path / f"{'x' * 250}.png", 40, 30)
    assert read_image(crop_path(str(file), Box(0, 0, 12, 12))).shape == (12, 12, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.png#xywh=40,0,5,5", "the crop lies outside of the photo"),
        ("a.jpg#xywh=40,0,5,5", "the crop lies outside of the photo"),
        ("a.png#xywh=0,0,0,5", "the crop lies outside of the photo"),
        ("none.png#xywh=0,0,5,5", "No such file or directory"),
        ("broken.jpg#xywh=0,0,5,5", "a truncated or damaged JPEG"),
    ],
)
def test_errors_name_the_crop(tmp_path, write_photo, name, reason):
    for suffix in ("png", "jpg"):
        write_photo(tmp_path / f"a.{suffix}", 40, 30)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    for read in (read_image, lambda path: read_views(path, [((8, 8), "stretch")])):
        with pytest.raises(DataError) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {reason}")
    assert problem_of(tmp_path / name).startswith(reason)


class TestReaders:
    @pytest.fixture
    def index(self, tmp_path, data_folder, smooth):
        """Two photos, the second a copy of the first, with the crops 1 to 4 of each."""
        data = smooth(".jpg", quality=95).read_bytes()
        lines = ["path,label,split,x,y,width,height"]
        for name in "ab":
            (tmp_path / f"{name}.jpg").write_bytes(data)
            lines += [f"{name}.jpg,{'tea' if i % 2 else 'milk'},{'train' if name == 'a' else 'val'},"
                      f"{150 * i},{100 * i},120,{100 + 10 * i}" for i in range(4)]  # fmt: skip
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        return build_index(options("table", table=tmp_path / "t.csv"))

    def test_resized_images_and_their_cache(self, index):
        cache = open_cache(index, (32, 32), "letterbox", 1)
        plain, cached = (ResizedImages(index, (32, 32), "letterbox", each) for each in (None, cache))
        wide = ResizedImages(index, (24, 48), "stretch")
        for row, path in enumerate(index.table["path"]):
            expected = read_resized(index.root / path, (32, 32), "letterbox")
            for source in (plain, cached, cached):
                np.testing.assert_array_equal(source(row), expected)
            np.testing.assert_array_equal(ImageViews([plain, wide])(row)[1], wide(row))

    def test_crops_of_a_photo_are_no_copies_but_equal_crops_of_equal_photos_are(self, index):
        copies = find_copies(index.root, index.table, 2)
        pairs = copies.join(index.table["path"]).groupby("content")["path"].apply(list).tolist()
        assert len(pairs) == 4
        for a, b in pairs:
            assert a.replace("a.jpg", "b.jpg") == b
        assert (copies["difference"] == 0).all()

    def test_thumbnails_and_pages(self, index):
        image = Thumbnails(index, {}, "", None).image(0)
        assert image is not None
        assert max(image.shape) == 104
        embedded = ImageEmbedder(index.root).thumbnail(index.table["path"][0])
        assert (embedded.width, embedded.height) == (120, 100)
        assert embedded.title == "a.jpg#xywh=0,0,120,100"

    def test_prediction_of_a_list(self, index, tmp_path):
        pd.DataFrame({"path": [*index.table["path"][:2], "b.jpg#xywh=999,0,5,5"]}).to_csv(tmp_path / "list.csv")
        root, names, _ = find_images(tmp_path / "list.csv")
        problems = {}
        views = readable_views([f"{root}/{name}" for name in names], [((20, 20), "stretch")], problems)
        assert [views(i)[0].shape for i in range(3)] == [(20, 20, 3), (20, 20, 3), (1, 1, 3)]
        assert problems == {2: "the crop lies outside of the photo"}

    def test_relabeling(self, index, tmp_path):
        path = index.split("train")["path"].iloc[0]
        (tmp_path / "fixed.csv").write_text(f'path,given,suggested\n"{path}",milk,tea\n')
        changed = build_index(options("table", table=tmp_path / "t.csv", relabel=tmp_path / "fixed.csv"))
        assert changed.table.loc[changed.table["path"] == path, "class"].tolist() == ["tea"]
        assert changed.fingerprint != index.fingerprint
