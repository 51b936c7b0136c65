"""Format, completeness and orientation from bytes made by hand; test_corrupt_images.py reads whole files."""

import pytest

from rp2k_lab.dataset import image_formats
from tests.helpers import corrupt_images

READABLE = corrupt_images.readable_files()
TRANSPARENT = {"png-gray-alpha", "png-alpha", "png-palette-transparent-color", "png-palette-alpha", "png-color-key",
               "png-16-bit-alpha", "webp-alpha", "webp-lossless-alpha", "gif", "gif-transparent", "gif-animation",
               "exif-garbage-in-png-with-alpha"}  # fmt: skip


@pytest.mark.parametrize("name", READABLE)
def test_format_is_recognized_by_the_first_bytes(name):
    kind = name.split("-")[0]
    expected = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF",
                "avif": "AVIF", "jp2": "JPEG 2000"}.get(kind)  # fmt: skip
    result = image_formats.format_of(READABLE[name][: image_formats.HEAD_BYTES])
    assert result == expected if expected else result in ("JPEG", "PNG")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"BM" + bytes(30), b"BMW 320i, three pieces", b"RIFF    WAVEfmt "])
def test_other_files_have_no_format(data):
    assert image_formats.format_of(data) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x14ftypcrx \0\0\0\1crx ", "camera raw"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  heic", None),  # the brands end before
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", None),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"DDS is short for", None),
    ],
)
def test_formats_that_are_named(head, expected):
    assert image_formats.format_of(head + bytes(40)) == expected


def test_suffixes_are_told_in_any_case():
    suffixes = [image_formats.suffix_of(name) for name in ("a.JFIF", "b.c.HeIc", "no suffix", ".jpg")]
    assert suffixes == [".jfif", ".heic", "", ".jpg"]
    assert {".jfif", ".jpe", ".heic", ".avif", ".tiff", ".jp2", ".dng"} <= set(image_formats.FORMAT_OF_SUFFIX)


@pytest.mark.parametrize("name", [name for name in READABLE if name.split("-")[0] in ("png", "webp", "gif", "bmp")
                                  and "orientation" not in name])  # fmt: skip
def test_transparency(name):
    data = READABLE[name]
    assert image_formats.may_be_transparent(data, image_formats.format_of(data)) == (name in TRANSPARENT)


@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith("jpeg")])
def test_jpeg_is_complete_only_with_its_end(name):
    data = READABLE[name]
    frame = image_formats.jpeg_frame(data)
    assert (frame.height, frame.width) == (corrupt_images.HEIGHT, corrupt_images.WIDTH)
    assert frame.components == (4 if "cmyk" in name else 1 if "gray" in name else 3)
    assert data[frame.offset] == 0xFF
    assert image_formats.jpeg_has_end(data, frame)
    end = data.find(b"\xff\xd9", frame.offset)
    assert image_formats.jpeg_has_end(data[: end + 2], frame)
    assert not image_formats.jpeg_has_end(data[: end + 1], frame)


def test_every_truncation_of_a_png_is_detected():
    data = READABLE["png"]
    assert image_formats.png_pixels(data) == data
    assert all(image_formats.png_pixels(data[:length]) is None for length in range(8, len(data)))


def test_every_changed_byte_after_the_signature_of_a_png_is_detected():
    data = READABLE["png"]
    assert all(image_formats.png_pixels(corrupt_images.flipped(data, at)) != data for at in range(8, len(data)))
    first = data.find(b"IDAT")
    assert all(image_formats.png_pixels(corrupt_images.flipped(data, at)) is None for at in range(first, len(data)))


def test_chunks_without_effect_on_the_pixels_of_a_png_are_left_out():
    data = READABLE["png"]
    for name in ("png-damaged-comment", "png-damaged-profile", "png-damaged-animation", "png-garbage-after-its-end"):
        assert image_formats.png_pixels(READABLE[name]) == data


@pytest.mark.parametrize("value", range(10))
def test_orientation_in_both_byte_orders(value):
    big = b"MM\0*\0\0\0\x08\0\x02\x01\x0f\0\2\0\0\0\1abcd\x01\x12\0\3\0\0\0\1\0" + bytes([value]) + bytes(6)
    little = b"II*\0\x08\0\0\0\x01\0\x12\x01\3\0\1\0\0\0" + bytes([value]) + bytes(7)
    for exif in (big, little, b"Exif\0\0" + big):
        assert image_formats.orientation(exif) == (value if 1 <= value <= 8 else 1)


@pytest.mark.parametrize(
    "exif",
    [
        None,
        b"",
        b"Exif\0\0",
        b"MM",
        b"XX\0*\0\0\0\x08",
        b"MM\0*\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(50),
    ],
)
def test_damaged_exif_is_upright(exif):
    assert image_formats.orientation(exif) == 1
