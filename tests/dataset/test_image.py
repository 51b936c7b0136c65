import numpy as np
import pytest
import simplejpeg
from PIL import Image

from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset import image as image_module
from rp2k_lab.dataset.image import (
    center_crop,
    letterbox,
    pad_to_center,
    read_image,
    read_resized,
    read_shrunk,
    read_views,
    resized_size,
    stretch,
)


def gradient(height, width):
    """Return an image with distinct pixels: red by row, green by column, blue constant; never black."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(10, 250, height, dtype=np.uint8)[:, None]
    image[..., 1] = np.linspace(10, 250, width, dtype=np.uint8)
    image[..., 2] = 77
    return image


class TestLetterbox:
    @pytest.mark.parametrize(
        ("shape", "size", "box"),
        [
            # (height, width) → (top, left, height, width) of the image on the canvas
            ((100, 50), (64, 64), (0, 16, 64, 32)),
            ((50, 100), (64, 64), (16, 0, 32, 64)),
            ((64, 64), (64, 64), (0, 0, 64, 64)),
            ((33, 47), (65, 65), (9, 0, 46, 65)),
            ((47, 33), (65, 65), (0, 9, 65, 46)),
            ((1, 500), (48, 48), (23, 0, 1, 48)),
            ((500, 1), (48, 48), (0, 23, 48, 1)),
            ((1, 1), (48, 48), (0, 0, 48, 48)),
            ((100, 100), (64, 96), (0, 16, 64, 64)),
            ((100, 100), (96, 64), (16, 0, 64, 64)),
            ((30, 90), (96, 64), (37, 0, 21, 64)),
            ((20, 10), (64, 64), (0, 16, 64, 32)),
        ],
    )
    def test_image_is_centered_on_black(self, shape, size, box):
        result = letterbox(np.full((*shape, 3), 200, np.uint8), size)
        top, left, height, width = box
        assert (result.shape, result.dtype) == ((*size, 3), np.uint8)
        assert (result[top : top + height, left : left + width] == 200).all()
        result[top : top + height, left : left + width] = 0
        assert not result.any()

    @pytest.mark.parametrize("seed", range(20))
    def test_keeps_the_aspect_within_a_pixel(self, seed):
        rng = np.random.default_rng(seed)
        (height, width), size = rng.integers(10, 400, 2), tuple(rng.integers(32, 128, 2))
        filled = letterbox(np.full((height, width, 3), 255, np.uint8), size).any(-1)
        inner_height, inner_width = filled.any(1).sum(), filled.any(0).sum()
        scale = min(size[0] / height, size[1] / width)
        assert abs(inner_height - height * scale) <= 1
        assert abs(inner_width - width * scale) <= 1
        assert inner_height == size[0] or inner_width == size[1]

    def test_golden_pixels_when_shrinking_to_half(self):
        """Pinned, since the resize decides a network's input and may change with OpenCV's version.

        96×40 fits 48×48 as 48×20 from column 14 on; each pixel is the mean of 2×2: (10 + 12) / 2, (10 + 16) / 2.
        """
        result = letterbox(gradient(96, 40), (48, 48))
        assert result[0, 13:15].tolist() == [[0, 0, 0], [11, 13, 77]]
        assert result[24, 24].tolist() == [132, 136, 77]
        assert result[47, 33:35].tolist() == [[249, 247, 77], [0, 0, 0]]

    def test_golden_pixels_when_shrinking_a_little(self):
        """60×40 fits 48×48 as 48×32; the first pixel lies at 0.125 of the step from 10 to 14, and from 10 to 16."""
        result = letterbox(gradient(60, 40), (48, 48))
        assert result[0, 7:9].tolist() == [[0, 0, 0], [11, 11, 77]]
        assert result[24, 24].tolist() == [133, 134, 77]
        assert result[47, 39:41].tolist() == [[249, 249, 77], [0, 0, 0]]

    def test_golden_pixels_when_growing(self):
        result = letterbox(gradient(5, 8), (32, 32))
        assert result[5:7, 0].tolist() == [[0, 0, 0], [10, 10, 77]]
        assert result[16, 16].tolist() == [138, 134, 77]
        assert result[25:27, 31].tolist() == [[250, 250, 77], [0, 0, 0]]

    def test_does_not_change_its_input(self):
        image = gradient(20, 30)
        letterbox(image, (16, 16))
        np.testing.assert_array_equal(image, gradient(20, 30))


class TestStretch:
    def test_fills_the_whole_size(self):
        assert (stretch(np.full((10, 90, 3), 200, np.uint8), (48, 64)) == 200).all()

    def test_shrinking_averages_areas(self):
        """A fine checkerboard becomes gray; plain bilinear sampling would pick single squares."""
        board = np.indices((64, 64)).sum(0) % 2 * 255
        result = stretch(np.repeat(board[..., None], 3, 2).astype(np.uint8), (16, 16))
        np.testing.assert_allclose(result, 127.5, atol=1)

    def test_same_size_is_the_same_image(self):
        np.testing.assert_array_equal(stretch(gradient(20, 30), (20, 30)), gradient(20, 30))

    def test_growing_interpolates(self):
        line = np.repeat(np.uint8([[[0], [100]]]), 3, 2)
        assert stretch(line, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        ((224, 224), 0.875, (256, 256)),
        ((48, 48), 1.0, (48, 48)),
        ((224, 448), 0.875, (256, 512)),
        ((33, 65), 0.9, (37, 72)),
    ],
)
def test_resized_size(size, ratio, expected):
    assert resized_size(size, ratio) == expected


@pytest.mark.parametrize(("size", "corner"), [((4, 4), (3, 2)), ((3, 3), (3, 2)), ((10, 8), (0, 0)), ((1, 1), (4, 3))])
def test_center_crop_is_the_middle(size, corner):
    image = gradient(10, 8)
    result = center_crop(image, size)
    assert result.shape == (*size, 3)
    np.testing.assert_array_equal(result[0, 0], image[corner])


class TestReadImage:
    @pytest.fixture
    def pixels(self):
        """Return a smooth image, which JPEG keeps within a few gray levels."""
        return gradient(24, 40)

    def test_jpeg(self, tmp_path, pixels):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
        result = read_image(tmp_path / "a.jpg")
        assert (result.shape, result.dtype) == ((24, 40, 3), np.uint8)
        np.testing.assert_allclose(result, pixels, atol=12)

    def test_png_is_exact_and_rgb(self, tmp_path, pixels):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)

    def test_alpha_channel_is_dropped(self, tmp_path, pixels):
        """RP2K's screenshots are PNG with alpha."""
        opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        Image.fromarray(opaque).save(tmp_path / "截屏2019-12-09下午7.49.21.png")
        np.testing.assert_array_equal(read_image(tmp_path / "截屏2019-12-09下午7.49.21.png"), pixels)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_grayscale_becomes_three_channels(self, tmp_path, pixels, suffix):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"a.{suffix}", quality=95)
        result = read_image(tmp_path / f"a.{suffix}")
        assert result.shape == (24, 40, 3)
        assert (result == result[..., :1]).all()

    def test_palette_png(self, tmp_path):
        image = Image.fromarray(np.full((5, 5, 3), (255, 0, 51), np.uint8)).convert("P", palette=Image.Palette.WEB)
        image.save(tmp_path / "a.png")
        assert (read_image(tmp_path / "a.png") == (255, 0, 51)).all()

    @pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
    def test_exif_rotation_is_applied(self, tmp_path, pixels, orientation, turns):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif)
        np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), np.rot90(pixels, turns), atol=12)

    def test_chinese_path(self, tmp_path, write_photo):
        file = write_photo(tmp_path / "555（冰炫）" / "黄金叶_百年浓香 1.JPG")
        assert read_image(file).shape == (12, 8, 3)

    def test_empty_file(self, tmp_path):
        (tmp_path / "空.jpg").touch()
        with pytest.raises(DataError, match=r"空\.jpg"):
            read_image(tmp_path / "空.jpg")

    def test_text_named_jpg(self, tmp_path):
        (tmp_path / "a.jpg").write_text("<html>404 not found</html>" * 50)
        with pytest.raises(DataError, match=r"a\.jpg"):
            read_image(tmp_path / "a.jpg")

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"nowhere\.png"):
            read_image(tmp_path / "nowhere.png")

    def test_folder(self, tmp_path):
        with pytest.raises(DataError, match=tmp_path.name):
            read_image(tmp_path)

    def test_png_cut_off_in_its_header(self, tmp_path, write_photo):
        file = write_photo(tmp_path / "a.png")
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(DataError, match=r"a\.png"):
            read_image(file)

    def test_image_larger_than_opencv_reads(self, tmp_path):
        """OpenCV refuses more than 2^30 pixels; a header of that size is enough."""
        import struct
        import zlib

        header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 64)
        with pytest.raises(DataError, match=r"a\.png"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("shape", "size", "resize", "reduction"),
    [
        ((400, 200), (224, 224), "letterbox", 1),
        ((448, 200), (224, 224), "letterbox", 2),
        ((448, 200), (224, 224), "stretch", 1),
        ((900, 640), (224, 224), "letterbox", 4),
        ((900, 640), (224, 224), "stretch", 2),
        ((1000, 1200), (64, 48), "stretch", 8),
    ],
)
class TestReducedDecoding:
    def test_equals_the_scaled_image(self, tmp_path, resize, shape, size, reduction):
        """Decoding at a fraction is area averaging: on a smooth image the two agree within JPEG's error."""
        Image.fromarray(gradient(*shape)).save(tmp_path / "a.jpg", quality=95)
        reduced = read_resized(tmp_path / "a.jpg", size, resize)
        whole = read_image(tmp_path / "a.jpg")
        if resize == "letterbox":
            reduced, expected = pad_to_center(reduced, size, size), letterbox(whole, size)
        else:
            expected = stretch(whole, size)
        assert reduced.shape == expected.shape == (*size, 3)
        difference = np.abs(reduced.astype(int) - expected)
        assert np.median(difference) <= 1
        assert difference.mean() < 2

    def test_never_leaves_fewer_pixels_than_needed(self, tmp_path, monkeypatch, resize, shape, size, reduction):
        decoded, decode = [], simplejpeg.decode_jpeg

        def spy(*args, **options):
            decoded.append(decode(*args, **options))
            return decoded[-1]

        monkeypatch.setattr(simplejpeg, "decode_jpeg", spy)
        Image.fromarray(gradient(*shape)).save(tmp_path / "a.jpg", quality=95)
        read_resized(tmp_path / "a.jpg", size, resize)
        assert [image.shape[:2] for image in decoded] == [(shape[0] // reduction, shape[1] // reduction)]


@pytest.mark.parametrize(
    ("shape", "shrunk"), [((255, 400), (255, 400)), ((256, 400), (128, 200)), ((520, 600), (130, 150))]
)
def test_shrunk_keeps_the_shorter_side(tmp_path, shape, shrunk):
    Image.fromarray(gradient(*shape)).save(tmp_path / "a.jpg", quality=95)
    assert read_shrunk(tmp_path / "a.jpg", 128).shape[:2] == shrunk
    Image.fromarray(gradient(*shape)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_shrunk(tmp_path / "a.png", 128), gradient(*shape))


VIEWS = [((64, 64), "letterbox"), ((60, 64), "stretch"), ((250, 250), "letterbox"), ((30, 30), "letterbox")]


@pytest.fixture
def decodings(monkeypatch):
    """Return the list of each decoding's shape."""
    decode, shapes = image_module._decode, []

    def record(*arguments):
        image = decode(*arguments)
        shapes.append(image.shape)
        return image

    monkeypatch.setattr(image_module, "_decode", record)
    return shapes


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_views_equal_separate_reads_with_one_decoding_per_scale(tmp_path, decodings, suffix):
    file = tmp_path / f"照片{suffix}"
    Image.fromarray(gradient(300, 280)).save(file)
    alone = [read_resized(file, *view) for view in VIEWS]
    decodings.clear()
    for view, expected in zip(read_views(file, VIEWS), alone, strict=True):
        np.testing.assert_array_equal(view, expected)
    assert decodings == ([(75, 70, 3), (300, 280, 3), (38, 35, 3)] if suffix == ".jpg" else [(300, 280, 3)])


@pytest.mark.parametrize(("height", "heights"), [(447, [447]), (448, [448, 224]), (580, [290])])
def test_sizes_of_one_scale_take_one_decoding(tmp_path, decodings, height, heights):
    file = tmp_path / "photo.jpg"
    Image.fromarray(gradient(height, 220)).save(file)
    read_views(file, [((256, 256), "letterbox"), ((288, 288), "letterbox"), ((224, 224), "letterbox")])
    assert [shape[0] for shape in decodings] == heights


def test_views_of_a_damaged_image_name_it(tmp_path):
    (tmp_path / "坏.jpg").write_bytes(b"\xff\xd8\xff no image")
    with pytest.raises(DataError, match=r"坏\.jpg"):
        read_views(tmp_path / "坏.jpg", VIEWS)
