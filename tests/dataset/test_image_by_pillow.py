"""Pixels of kinds that Pillow reads, against values that were computed without a decoder."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import problem_of, read_image, read_resized
from rp2k_lab.dataset.photo_index import build_index
from tests.helpers import corrupt_images
from tests.helpers.corrupt_images import RGB, RGBA, encoded, png, png_chunk, with_png_chunk
from tests.helpers.dataset_options import dataset

WIDTH, HEIGHT = 16, 4


def read(tmp_path, data, name="x.img"):
    (tmp_path / name).write_bytes(data)
    return read_image(tmp_path / name).astype(int)


def ramp(depth):
    """Return samples from 0 to the largest of `depth` bits by column, int64 (HEIGHT, WIDTH)."""
    return np.tile(np.linspace(0, 2**depth - 1, WIDTH).astype(np.int64), (HEIGHT, 1))


def eight_bits(samples, depth):
    return samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)


def gray(values):
    return np.repeat(values[..., None], 3, 2)


def packed_rows(samples, depth):
    """Return rows of samples of 1 to 16 bits, big-endian, each row padded to whole bytes."""
    rows = []
    for row in samples.reshape(len(samples), -1):
        bits = "".join(format(value, f"0{depth}b") for value in row)
        rows.append(int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8)))
    return rows


def png_of(samples, depth, color, *chunks):
    """Return a PNG with (kind, content) chunks before its pixels."""
    data = png(WIDTH, HEIGHT, depth, color, b"".join(b"\0" + row for row in packed_rows(samples, depth)))
    for kind, content in reversed(chunks):
        data = with_png_chunk(data, kind, content)
    return data


class TestPngWithATransparentColor:
    """Pillow 13 compares that color, of the file's depth, with pixels of 8 bits."""

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_gray(self, tmp_path, depth, transparent):
        samples = ramp(depth)
        key = samples[0, WIDTH // 2]
        chunks = [(b"tRNS", struct.pack(">H", key))] if transparent else []
        expected = np.where((samples == key) & transparent, 0, eight_bits(samples, depth))
        np.testing.assert_array_equal(read(tmp_path, png_of(samples, depth, 0, *chunks)), gray(expected))

    @pytest.mark.parametrize("depth", [8, 16])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_rgb(self, tmp_path, depth, transparent):
        samples = np.stack([ramp(depth), ramp(depth)[:, ::-1], np.full((HEIGHT, WIDTH), 99)], axis=2)
        key = samples[0, 5].copy()
        samples[1, 5] += 1  # of 16 bits, the same 8
        chunks = [(b"tRNS", struct.pack(">HHH", *key))] if transparent else []
        is_key = (samples == key).all(axis=2, keepdims=True)
        expected = np.where(is_key & transparent, 0, eight_bits(samples, depth))
        np.testing.assert_array_equal(read(tmp_path, png_of(samples, depth, 2, *chunks)), expected)

    def test_is_turned_upright(self, tmp_path):
        exif = (b"eXIf", corrupt_images.oriented(6).tobytes()[6:])
        samples = ramp(16)
        data = png_of(samples, 16, 0, exif, (b"tRNS", b"\0\1"))
        np.testing.assert_array_equal(read(tmp_path, data), gray(np.rot90(samples >> 8, -1)))

    def test_mean_of_a_gray_photo_of_16_bits(self, tmp_path):
        """It was read almost white: a mean of 251."""
        data = png_of(ramp(16), 16, 0, (b"tRNS", b"\0\0"))
        assert 120 < read(tmp_path, data).mean() < 135


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_with_a_palette(tmp_path, depth, transparent):
    count = min(2**depth, WIDTH)
    palette = np.random.default_rng(0).integers(0, 256, (count, 3))
    indices, alpha = np.tile(np.arange(WIDTH) % count, (HEIGHT, 1)), np.linspace(255, 0, count).astype(int)
    chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())]
    chunks += [(b"tRNS", alpha.astype(np.uint8).tobytes())] if transparent else []
    expected = palette[indices] * (alpha[indices][..., None] if transparent else 255) // 255
    np.testing.assert_allclose(read(tmp_path, png_of(indices, depth, 3, *chunks)), expected, atol=1)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color", [4, 6])
def test_png_with_alpha(tmp_path, depth, color):
    top = 2**depth - 1
    alpha = np.tile(np.linspace(0, top, HEIGHT).astype(np.int64)[:, None], (1, WIDTH))[..., None]
    colors = np.stack([ramp(depth)] * (1 if color == 4 else 3), axis=2)
    expected = eight_bits(colors * alpha // top, depth)
    data = png_of(np.concatenate([colors, alpha], axis=2), depth, color)
    np.testing.assert_allclose(read(tmp_path, data), np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=1)


@pytest.mark.parametrize(("alpha", "visible"), [("ramp", True), ("zero", False)])
def test_bmp_with_alpha(tmp_path, alpha, visible):
    """Transparent pixels become black; a file whose alpha is 0 everywhere was written without regard to it."""
    pixels = np.array(RGBA)
    pixels[..., 3] *= visible
    height, width = pixels.shape[:2]
    header = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, pixels.size, 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    content = header + pixels[..., [2, 1, 0, 3]].tobytes()
    data = b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, 14 + len(header)) + content
    weights = pixels[..., 3:].astype(int) if visible else 255
    np.testing.assert_allclose(read(tmp_path, data), pixels[..., :3].astype(int) * weights // 255, atol=1)


def tiff_of(samples, depth, photometric, order="<", **tags):
    """Return a TIFF of uncompressed samples (height, width[, channels]).

    Args:
        photometric: 0: white is 0; 1: black is 0; 2: RGB.
        tags: `t<number>`: further tags of one short value.
    """
    height, width, channels = (*samples.shape, 1)[:3]
    if depth == 12:
        strip = b"".join(packed_rows(samples, 12))
    else:
        kind = {8: "u1", 16: f"{order}u2", 32: f"{order}u4"}[depth]
        strip = samples.astype(kind).tobytes()
    entries = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 8, 277: channels, 278: height}
    entries |= {279: len(strip)} | {int(name[1:]): value for name, value in tags.items()}
    directory = struct.pack(f"{order}H", len(entries))
    after = 8 + len(strip)
    bits = struct.pack(f"{order}{channels}H", *[depth] * channels)
    for tag, value in sorted(entries.items()):
        if tag == 258 and channels > 2:
            directory += struct.pack(f"{order}HHII", tag, 3, channels, after)
        elif tag == 279:
            directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
        else:
            directory += struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = after + len(bits)
    return magic + struct.pack(f"{order}I", start) + strip + bits + directory + bytes(4)


class TestTiff:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("white_is_zero", [False, True])
    @pytest.mark.parametrize("depth", [8, 16])
    def test_gray(self, tmp_path, order, white_is_zero, depth):
        samples = ramp(depth)
        data = tiff_of(samples, depth, 1 - white_is_zero, order)
        if (order, white_is_zero, depth) == (">", True, 16):  # Pillow 13 does not know this kind
            with pytest.raises(DataError, match="a truncated, damaged or unusual TIFF"):
                read(tmp_path, data)
            return
        expected = eight_bits(2**depth - 1 - samples if white_is_zero else samples, depth)
        np.testing.assert_array_equal(read(tmp_path, data), gray(expected))

    def test_gray_of_12_bits(self, tmp_path):
        np.testing.assert_array_equal(read(tmp_path, tiff_of(ramp(12), 12, 1)), gray(ramp(12) >> 4))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("depth", [8, 16])
    def test_rgb(self, tmp_path, order, depth):
        samples = np.stack([ramp(depth), ramp(depth)[:, ::-1], np.full((HEIGHT, WIDTH), 99)], axis=2)
        np.testing.assert_array_equal(read(tmp_path, tiff_of(samples, depth, 2, order)), eight_bits(samples, depth))

    @pytest.mark.parametrize("mode", ["1", "P", "CMYK", "LA"])
    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
    def test_other_modes(self, tmp_path, mode, compression):
        image = RGBA.convert("LA") if mode == "LA" else RGB.convert(mode)
        expected = np.asarray(image.convert("RGB")).astype(int)
        if mode == "LA":
            expected = expected * np.asarray(RGBA)[..., 3:] // 255
        np.testing.assert_allclose(read(tmp_path, encoded(image, "TIFF", compression=compression)), expected, atol=1)

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_samples_without_a_known_white_are_named(self, tmp_path, mode):
        data = encoded(RGB.convert("L").convert(mode), "TIFF")
        with pytest.raises(DataError) as error:
            read(tmp_path, data)
        first, second = str(error.value).split("\n")
        assert first == f"{tmp_path}/x.img: TIFF of 32-bit or signed samples is not read"
        assert second.startswith("save such photos as JPEG or PNG, or skip them with dataset.on_bad_image=skip")

    @pytest.mark.parametrize(("name", "tags"), [("x.tif", {"t254": 1}), ("x.tif", {"t50706": 1}), ("x.NEF", {})])
    def test_the_preview_of_a_camera_file_is_no_photo(self, tmp_path, name, tags):
        data = tiff_of(ramp(8), 8, 1, **tags)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: camera raw is not read\nsave such photos as JPEG or PNG"):
            read_image(tmp_path / name)
        assert read(tmp_path, tiff_of(ramp(8), 8, 1), "y.tif").any()


@pytest.mark.parametrize(("options", "bits"), [({}, 8), ({"bits": 16}, 16)])
def test_jpeg_2000_of_gray(tmp_path, options, bits):
    image = Image.fromarray(ramp(16).astype(np.uint16)) if bits == 16 else RGB.convert("L")
    expected = ramp(16) >> 8 if bits == 16 else np.asarray(image)
    np.testing.assert_allclose(read(tmp_path, encoded(image, "JPEG2000", num_resolutions=1)), gray(expected), atol=1)


@pytest.fixture
def heic():
    """heic(image, **options): return a HEIC file."""
    pillow_heif = pytest.importorskip("pillow_heif")

    def encode(image, **options):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
        return buffer.getvalue()

    return encode


class TestHeic:
    @pytest.mark.parametrize("value", [1, 3, 5, 6, 8])
    @pytest.mark.usefixtures("data_folder")
    def test_is_upright_with_the_listed_size(self, tmp_path, heic, write_photo, value):
        root = tmp_path / "set"
        for name in "ab":
            for i in range(3):
                write_photo(root / "train" / name / f"{i}.png", seed=i)
        file = root / "train" / "a" / "x.HEIC"
        file.write_bytes(heic(RGB, exif=corrupt_images.oriented(value).tobytes()))
        pixels = read_image(file)
        expected = corrupt_images.decode_with_pillow(encoded(RGB, "PNG", exif=corrupt_images.oriented(value)))
        np.testing.assert_allclose(pixels.astype(int), expected, atol=12)
        row = build_index(dataset(root)).table.set_index("path").loc["train/a/x.HEIC"]
        assert (row["height"], row["width"]) == pixels.shape[:2]

    def test_transparent_pixels_are_black(self, tmp_path, heic):
        expected = np.asarray(RGBA)[..., :3] * (np.asarray(RGBA)[..., 3:] / 255)
        np.testing.assert_allclose(read(tmp_path, heic(RGBA)), expected, atol=16)

    def test_a_part_of_a_file_is_named(self, tmp_path, heic):
        data = heic(RGB)
        (tmp_path / "a.heic").write_bytes(data[: len(data) * 2 // 3])
        assert "a truncated, damaged or unusual HEIC" in problem_of(tmp_path / "a.heic")

    @pytest.mark.usefixtures("data_folder")
    def test_without_the_package_it_is_named_with_the_way_out(self, tmp_path, heic, write_photo, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        root = tmp_path / "set"
        for name in "ab":
            for i in range(3):
                write_photo(root / "train" / name / f"{i}.png", seed=i)
            (root / "train" / name / "x.heic").write_bytes(heic(RGB))
        with pytest.raises(DataError) as error:
            build_index(dataset(root))
        first, second = str(error.value).split("\n")
        assert first == f"{root}/train/a/x.heic: HEIC needs the package pillow-heif (and 1 more)"
        assert second == "install it: pip install pillow-heif; or skip such photos with dataset.on_bad_image=skip"
        skipped = build_index(dataset(root, on_bad_image="skip")).skipped
        assert skipped["problem"].tolist() == ["HEIC needs the package pillow-heif"] * 2


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "JPEG2000"])
def test_resized_equals_the_resized_png(tmp_path, kind):
    """Resizing does not depend on the kind of file."""
    (tmp_path / "a").write_bytes(encoded(RGB, kind, **({"quality": 100} if kind == "AVIF" else {})))
    RGB.save(tmp_path / "a.png")
    for resize in ("letterbox", "stretch"):
        sizes = [read_resized(tmp_path / name, (16, 16), resize).astype(int) for name in ("a", "a.png")]
        np.testing.assert_allclose(*sizes, atol=6)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.ico", b"\0\0\1\0", "icon is not read"),
        ("a.psd", b"8BPS\0\1" + bytes(60), "Photoshop is not read"),
        ("a.jxl", b"\xff\x0a" + bytes(60), "JPEG XL is not read"),
        ("a.svg", b"<svg/>", "SVG is not read"),
        ("a.jpg", b"8BPS\0\1" + bytes(60), "Photoshop is not read"),
        ("a.jpg", b"<svg/>", "neither JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC nor JPEG 2000"),
        ("a.tif", png_chunk(b"IHDR", b""), "neither JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC nor JPEG 2000"),
        ("a.CR3", b"", "zero bytes"),
    ],
)
def test_kinds_that_are_not_read_are_named(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    assert problem_of(tmp_path / name) == reason
