"""The native library's crops against those of OpenCV and simplejpeg, bit for bit."""

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.aug.augmentation import Augmentation
from rp2k_lab.aug.erase.cutout import Cutout
from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset import image as images
from rp2k_lab.dataset.image_cache import ImageCache
from rp2k_lab.dataset.loader import ResizedImages, TrainingBatches
from rp2k_lab.native import photos

pytestmark = pytest.mark.skipif(not photos.is_on(), reason="the native library is off")

RNG = np.random.default_rng(0)


class FixedCrop(RandomResizedCrop):
    def __init__(self, size, box):
        super().__init__(size)
        self.box = box

    def draw_box(self, *arguments):
        return self.box


def picture(height, width):
    """Return noise on a smooth picture, so that any other rounding or subsampling gives other bits."""
    coarse = RNG.integers(0, 256, (4, 4, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, RNG.integers(0, 40, smooth.shape, np.uint8))


def jpeg(height, width, subsampling=2, mode="RGB", **options):
    data = io.BytesIO()
    Image.fromarray(picture(height, width)).convert(mode).save(data, "JPEG", subsampling=subsampling, **options)
    return data.getvalue()


def random_box(height, width):
    h, w = int(RNG.integers(1, height + 1)), int(RNG.integers(1, width + 1))
    return int(RNG.integers(0, height - h + 1)), int(RNG.integers(0, width - w + 1)), h, w


def native_crop(path, canvas, resize, size, box, slots=None):
    """Return the native crop, or None."""
    targets = np.full((1, *size, 3), 77, np.uint8)
    return targets[0] if photos.read_crops([str(path)], [box], canvas, resize, targets, slots) == [True] else None


def python_crop(path, canvas, resize, size, box):
    return FixedCrop(size, box)(images.read_resized(path, canvas, resize), RNG, canvas)


class TestFiles:
    @pytest.mark.parametrize("resize", ["letterbox", "stretch"])
    @pytest.mark.parametrize(
        "options",
        [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"mode": "L"}, {"progressive": True},
         {"quality": 30}, {"restart_marker_rows": 1}],
        ids=str,
    )  # fmt: skip
    def test_plain_jpegs(self, tmp_path, resize, options):
        """Any size and box; the crops that shrink to half or are narrow are left to Python."""
        done = 0
        for i in range(30):
            path = tmp_path / f"照片{i}.jpg"
            path.write_bytes(jpeg(*RNG.integers(16, 400, 2).tolist(), **options))
            size = tuple(RNG.integers(20, 120, 2).tolist())
            canvas = images.resized_size(size, 0.875)
            box = random_box(*canvas)
            crop = native_crop(path, canvas, resize, size, box)
            if crop is not None:
                done += 1
                np.testing.assert_array_equal(crop, python_crop(path, canvas, resize, size, box))
        assert done > (15 if resize == "letterbox" else 3)

    def test_a_box_beside_the_photo_is_black(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(jpeg(100, 40))
        crop = native_crop(tmp_path / "a.jpg", (64, 64), "letterbox", (56, 56), (0, 0, 60, 15))
        assert crop is not None
        assert not crop.any()

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_only_upright_exif(self, tmp_path, orientation, order):
        exif = Image.Exif()
        exif.endian = order
        exif[0x0112] = orientation
        (tmp_path / "a.jpg").write_bytes(jpeg(90, 60, exif=exif))
        arguments = tmp_path / "a.jpg", (64, 64), "letterbox", (56, 56), (3, 20, 50, 30)
        crop = native_crop(*arguments)
        assert (crop is not None) == (orientation == 1)
        if crop is not None:
            np.testing.assert_array_equal(crop, python_crop(*arguments))

    def test_unusual_photos_are_left_to_python(self, tmp_path):
        files = {
            "tiny.jpg": jpeg(12, 40),
            "cmyk.jpg": jpeg(60, 60, mode="CMYK"),
            "large.jpg": jpeg(2100, 2100, quality=20),  # decoded at a half, still far from the needed size
            "empty.jpg": b"",
            "text.jpg": b"no image",
            "png.jpg": cv2.imencode(".png", picture(60, 60))[1].tobytes(),
            "extraneous.jpg": jpeg(60, 60).replace(b"\xff\xdb", b"\0\0\xff\xdb", 1),
        }
        canvas = {"large.jpg": (2000, 2000)}
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
            size = canvas.get(name, (64, 64))
            assert native_crop(tmp_path / name, size, "letterbox", (56, 56), (0, 0, 50, 50)) is None, name
        for path in (tmp_path, tmp_path / "missing.jpg", tmp_path / "text.jpg#xywh=0,0,5,5"):
            assert native_crop(path, (64, 64), "letterbox", (56, 56), (0, 0, 50, 50)) is None

    @pytest.mark.parametrize("progressive", [False, True])
    def test_damage_is_left_to_python(self, tmp_path, progressive):
        """A file cut off anywhere or with a wrong byte is refused, or read as Python reads it."""
        whole, path = jpeg(60, 50, progressive=progressive), tmp_path / "a.jpg"
        arguments = path, (64, 64), "letterbox", (56, 56), (0, 5, 60, 50)
        cut = [whole[:length] for length in range(0, len(whole), 37)]
        flipped = [bytes([*whole[:at], whole[at] ^ 0x41, *whole[at + 1 :]]) for at in range(2, len(whole), 29)]
        refused = 0
        for data in cut + flipped:
            path.write_bytes(data)
            crop = native_crop(*arguments)
            refused += crop is None
            if crop is not None:
                np.testing.assert_array_equal(crop, python_crop(*arguments))
        assert refused >= len(cut)

    def test_half_of_the_size_is_averaged_by_opencv(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(jpeg(64, 64))
        arguments = tmp_path / "a.jpg", (64, 64), "letterbox", (28, 28)
        assert native_crop(*arguments, (0, 0, 56, 56)) is None
        assert native_crop(*arguments, (0, 0, 55, 55)) is not None


class TestCache:
    @pytest.fixture
    def cache(self, tmp_path):
        return ImageCache(tmp_path / "cache", 4, (64, 80), 4)

    def test_filled_slots_are_read(self, cache):
        for slot, (height, width) in enumerate([(64, 80), (64, 31), (7, 80), (64, 20)]):
            image, box = picture(height, width), (3, 10, 50, 60)
            cache.put(slot, image)
            crop = native_crop("none.jpg", (64, 80), "letterbox", (56, 70), box, (*cache.files, [slot]))
            expected = FixedCrop((56, 70), box)(image, RNG, (64, 80))
            np.testing.assert_array_equal(crop, expected)

    def test_empty_and_damaged_slots_are_not(self, cache, tmp_path):
        def is_read(slot):
            slots = *cache.files, [slot]
            return native_crop("none.jpg", (64, 80), "letterbox", (56, 70), (0, 0, 60, 70), slots) is not None

        cache.put(0, picture(64, 80))
        assert [is_read(0), is_read(1), is_read(99)] == [True, False, False]
        with (tmp_path / "cache" / "photos").open("r+b") as file:
            file.seek(5000)
            byte = file.read(1)[0]
            file.seek(5000)
            file.write(bytes([byte ^ 1]))
        assert not is_read(0)
        with (tmp_path / "cache" / "entries").open("r+b") as file:
            file.write(b"\xff" * 16)
        assert not is_read(0)


class TestBatches:
    SIZE = (48, 56)

    @pytest.fixture
    def rows(self, tmp_path):
        """Plain JPEGs, and some that Python reads."""
        for i in range(24):
            path = tmp_path / f"{i}.jpg"
            path.write_bytes(jpeg(60 + 3 * i, 90, mode="CMYK" if i % 7 == 3 else "RGB"))
        paths = [f"{i}.jpg" for i in range(24)]
        return pd.DataFrame({"path": paths, "row": range(24), "label": range(24)})

    def batches(self, tmp_path, rows, cache=None, **options):
        canvas = images.resized_size(self.SIZE, 0.875)
        source = ResizedImages(SimpleNamespace(root=tmp_path, table=rows), canvas, "letterbox", cache)
        operations = HorizontalFlip(0.5), Cutout(9, (128, 128, 128))
        augmentation = Augmentation(RandomResizedCrop(self.SIZE), operations, None)
        return TrainingBatches(source, rows, augmentation, self.SIZE, 5, 3, 24, **options)

    def test_the_library_changes_no_bit(self, tmp_path, rows, monkeypatch):
        cache = ImageCache(tmp_path / "cache", 24, images.resized_size(self.SIZE, 0.875), 20)
        runs = [self.batches(tmp_path, rows), self.batches(tmp_path, rows, cache, num_threads=4)]
        native = [[batch for _ in range(3) for batch in run] for run in runs]
        monkeypatch.setattr(photos, "_kernels", lambda: None)
        plain = self.batches(tmp_path, rows)
        expected = [batch for _ in range(3) for batch in plain]
        for batches in native:
            for (pixels, labels), (other_pixels, other_labels) in zip(batches, expected, strict=True):
                np.testing.assert_array_equal(pixels, other_pixels)
                np.testing.assert_array_equal(labels, other_labels)

    def test_most_photos_of_a_batch_are_done(self, tmp_path, rows, monkeypatch):
        done, read = [], photos.read_crops
        monkeypatch.setattr(photos, "read_crops", lambda *arguments: done.extend(read(*arguments)) or done[-5:])
        list(self.batches(tmp_path, rows))
        assert 12 <= sum(done) < len(done) == 20

    def test_an_unreadable_photo_is_named(self, tmp_path, rows):
        (tmp_path / "5.jpg").write_bytes((tmp_path / "5.jpg").read_bytes()[:700])
        batches = self.batches(tmp_path, rows)
        with pytest.raises(DataError, match=r"5\.jpg: a truncated or damaged JPEG of 700 bytes"):
            [list(batches) for _ in range(3)]
        assert isinstance(batches.failure, DataError)
