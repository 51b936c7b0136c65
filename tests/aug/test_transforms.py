from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rp2k_lab.aug import transforms

FILL = (120, 108, 90)


def sample_images():
    """Yield (name, image): smooth, noisy, flat, dark, of few values and very small."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 51, 3), np.uint8)
    ramp = np.linspace((0, 30, 255), (255, 200, 0), 51).astype(np.uint8)
    yield "smooth", np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 2))
    yield "noise", noise
    yield "ramp", np.tile(ramp, (40, 1, 1))
    yield "black", np.zeros((40, 51, 3), np.uint8)
    yield "white", np.full((40, 51, 3), 255, np.uint8)
    yield "two values", np.where(noise > 99, 30, 31).astype(np.uint8)
    yield "flat channel", np.dstack([noise[..., 0], np.full((40, 51), 7, np.uint8), noise[..., 2]])
    for shape in [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3)]:
        yield f"{shape[0]}×{shape[1]}", noise[: shape[0], : shape[1]].copy()


IMAGES = dict(sample_images())


def enhanced(kind, factor):
    return lambda image: kind(image).enhance(factor)


def moved(*matrix):
    return lambda image: image.transform(image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=FILL)


def moved_by(fraction, down):
    return lambda i: moved(1, 0, 0 if down else fraction * i.width, 0, 1, fraction * i.height if down else 0)(i)


# name: (tested function, Pillow's, largest difference of a value).  The difference is 0 for tables of whole numbers, 1
# where Pillow truncates and we round, 2 where Pillow rounds twice.
POINTWISE = {
    "autocontrast": (transforms.autocontrast, ImageOps.autocontrast, 1),
    "equalize": (transforms.equalize, ImageOps.equalize, 0),
    "invert": (transforms.invert, ImageOps.invert, 0),
    **{
        f"posterize {bits}": (partial(transforms.posterize, bits=bits), partial(ImageOps.posterize, bits=bits), 0)
        for bits in (1, 3, 7, 8)
    },
    **{
        f"solarize {limit}": (
            partial(transforms.solarize, threshold=limit),
            partial(ImageOps.solarize, threshold=limit),
            0,
        )
        for limit in (0, 1, 100, 255, 256)
    },
    **{
        f"solarize_add {addend}": (
            partial(transforms.solarize_add, addend=addend),
            lambda i, addend=addend: i.point([v + addend if v < 128 else v for v in range(256)] * 3),
            0,
        )
        for addend in (0, 33, 127, 128)
    },
    **{
        f"{name} {factor}": (partial(getattr(transforms, name), factor=factor), enhanced(kind, factor), tolerance)
        for name, kind, tolerance in (
            ("brightness", ImageEnhance.Brightness, 1),
            ("saturation", ImageEnhance.Color, 1),
            ("contrast", ImageEnhance.Contrast, 2),
            ("sharpness", ImageEnhance.Sharpness, 2),
        )
        for factor in (0.1, 0.73, 1.0, 1.9)
    },
}
GEOMETRIC = {
    **{
        f"rotate {degrees}": (
            partial(transforms.rotate, degrees=degrees),
            lambda i, degrees=degrees: i.rotate(degrees, Image.BILINEAR, fillcolor=FILL),
        )
        for degrees in (0, 30, -17, 90, 180)
    },
    **{
        f"{name} {amount}": (partial(getattr(transforms, name), **{key: amount}), reference(amount))
        for amount in (0.3, -0.3, 0.11)
        for name, key, reference in (
            ("shear_x", "factor", lambda f: moved(1, f, 0, 0, 1, 0)),
            ("shear_y", "factor", lambda f: moved(1, 0, 0, f, 1, 0)),
            ("translate_x", "fraction", lambda fraction: moved_by(fraction, down=False)),
            ("translate_y", "fraction", lambda fraction: moved_by(fraction, down=True)),
        )
    },
}


def assert_equals_pillow(image, transform, reference, tolerance):
    expected = np.asarray(reference(Image.fromarray(image)))
    result = transform(image.copy())
    assert (result.dtype, result.shape) == (np.uint8, image.shape)
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result.astype(int), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_transforms_equal_pillow(name, image):
    assert_equals_pillow(IMAGES[image], *POINTWISE[name])


@pytest.mark.parametrize("image", ["smooth", "noise", "ramp"])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_transforms_equal_pillow(name, image):
    """Only the pixels at the border differ, where OpenCV blends with the fill color: a frame of it hides that."""
    transform, reference = GEOMETRIC[name]
    framed = IMAGES[image].copy()
    framed[:2], framed[-2:], framed[:, :2], framed[:, -2:] = FILL, FILL, FILL, FILL
    assert_equals_pillow(framed, partial(transform, fill=FILL), reference, 1)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_transforms_keep_type_and_shape(name, image):
    result = GEOMETRIC[name][0](IMAGES[image].copy(), fill=FILL)
    assert (result.dtype, result.shape) == (np.uint8, IMAGES[image].shape)
    assert result.flags.c_contiguous


@pytest.mark.parametrize(
    ("transform", "rows", "columns"),
    [
        (partial(transforms.translate_x, fraction=0.25), slice(None), slice(6, 8)),
        (partial(transforms.translate_x, fraction=-0.25), slice(None), slice(0, 2)),
        (partial(transforms.translate_y, fraction=0.5), slice(5, 10), slice(None)),
    ],
)
def test_pixels_from_outside_are_filled(transform, rows, columns):
    """Fractions of a side: a quarter of 8 columns, half of 10 rows."""
    expected = np.full((10, 8, 3), 200, np.uint8)
    expected[rows, columns] = FILL
    np.testing.assert_array_equal(transform(np.full((10, 8, 3), 200, np.uint8), fill=FILL), expected)


def test_posterize_to_no_bits_is_black():
    """Pillow refuses it, but the papers' tables contain it."""
    assert not transforms.posterize(IMAGES["noise"].copy(), 0).any()


@pytest.mark.parametrize("factor", [5.5, 3.0])
@pytest.mark.parametrize("name", ["brightness", "saturation", "contrast", "sharpness"])
def test_factors_beyond_the_papers_saturate(name, factor):
    """Magnitudes above 10; the factor multiplies Pillow's rounding errors."""
    kind = {"saturation": "Color"}.get(name, name.title())
    reference = enhanced(getattr(ImageEnhance, kind), factor)
    assert_equals_pillow(IMAGES["noise"], partial(getattr(transforms, name), factor=factor), reference, factor)
