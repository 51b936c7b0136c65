"""The transformations of the policies, on uint8 RGB (height, width, 3), in place.

Results equal Pillow's, but for rounding (Pillow truncates) and, in `affine`, a border of one pixel.  For their
arguments see `rp2k_lab/aug/magnitudes.py`.

MindSpore's eager operators, µs per image at 224 in one thread, this module's in brackets: Rotate 470 (227),
AutoContrast 431 (90), Equalize 312 (383), Posterize 96 (6), Solarize 137 (13), AdjustContrast 157 (64), AdjustSharpness
330 (125).  None is used: the only faster one, Equalize, deviates from Pillow by up to 2.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

Color = tuple[int, int, int]
_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow and torchvision


def transformations(fill: Color) -> dict[str, Callable[..., np.ndarray]]:
    """Return the transformations by the papers' names, as functions of the image and the transformation's arguments.

    Args:
        fill: RGB (0 to 255) of pixels from outside the image.
    """
    pointwise = {
        "Identity": lambda image: image,
        "AutoContrast": autocontrast,
        "Equalize": equalize,
        "Invert": invert,
        "Posterize": posterize,
        "Solarize": solarize,
        "SolarizeAdd": solarize_add,
        "Color": saturation,
        "Contrast": contrast,
        "Brightness": brightness,
        "Sharpness": sharpness,
    }
    geometric = {
        "Rotate": rotate,
        "ShearX": shear_x,
        "ShearY": shear_y,
        "TranslateX": translate_x,
        "TranslateY": translate_y,
    }
    return pointwise | {name: partial(apply, fill=fill) for name, apply in geometric.items()}


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel so that its darkest value becomes 0 and its lightest 255; a flat channel stays."""
    rows = image.reshape(len(image), -1)  # NumPy reduces long rows a hundred times faster than pairs of axes
    low, high = (extreme.reshape(-1, 3) for extreme in (rows.min(0), rows.max(0)))
    low, high = low.min(0).astype(float), high.max(0).astype(float)
    flat = low == high
    scale = 255 / np.where(flat, 255, high - low)
    return _linear(image, scale, np.where(flat, 0, -low * scale))


def equalize(image: np.ndarray) -> np.ndarray:
    """Map each channel so that its histogram becomes uniform; a channel of too few pixel values stays."""
    planes = cv2.split(image)
    for plane in planes:
        counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(int)
        step = (plane.size - int(counts[np.flatnonzero(counts)[-1]])) // 255
        if step:
            table = (step // 2 + np.cumsum(counts) - counts) // step
            cv2.LUT(plane, np.minimum(table, 255).astype(np.uint8), plane)
    return cv2.merge(planes, image)


def invert(image: np.ndarray) -> np.ndarray:
    """Replace each value by 255 - value."""
    return cv2.bitwise_not(image, image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the `bits` highest bits of each value, 0 (all black) to 8 and more (no change)."""
    return np.bitwise_and(image, np.uint8(0xFF00 >> min(bits, 8) & 0xFF), out=image)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert values of `threshold` (0 to 256) and more."""
    inverted = cv2.threshold(image, threshold - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.bitwise_xor(image, inverted, image)


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """Add `addend` (0 to 128) to values below 128."""
    values = np.arange(256)
    return cv2.LUT(image, np.where(values < 128, values + addend, values).astype(np.uint8), image)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend black (factor 0) and the image (1)."""
    return _linear(image, factor, 0)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend the image's mean gray (factor 0) and the image (1)."""
    return _linear(image, factor, (1 - factor) * float(_GRAY @ cv2.mean(image)[:3]))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend the gray image (factor 0) and the image (1)."""
    matrix = np.tile((1 - factor) * _GRAY, (3, 1))
    matrix[(0, 1, 2), (0, 1, 2)] += factor
    return cv2.transform(image, matrix, image)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend the smoothed image (factor 0) and the image (1); the outermost pixels stay.

    Pillow's kernel, (5 in the middle of eight 1s) / 13, is a 3 × 3 box plus 4 in its middle.
    """
    box_weight = (1 - factor) * 9 / 13
    blend = cv2.addWeighted(image, 1 - box_weight, cv2.blur(image, (3, 3)), box_weight, 0)
    image[1:-1, 1:-1] = blend[1:-1, 1:-1]
    return image


def rotate(image: np.ndarray, degrees: float, fill: Color) -> np.ndarray:
    """Rotate counter-clockwise about the middle."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = image.shape[0] / 2, image.shape[1] / 2
    matrix = (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)
    return affine(image, matrix, fill)


def shear_x(image: np.ndarray, factor: float, fill: Color) -> np.ndarray:
    """Move row y left by `factor` · y; the first row stays."""
    return affine(image, ((1, factor, 0), (0, 1, 0)), fill)


def shear_y(image: np.ndarray, factor: float, fill: Color) -> np.ndarray:
    """Move column x up by `factor` · x; the first column stays."""
    return affine(image, ((1, 0, 0), (factor, 1, 0)), fill)


def translate_x(image: np.ndarray, fraction: float, fill: Color) -> np.ndarray:
    """Move the image left by a fraction of its width."""
    return affine(image, ((1, 0, fraction * image.shape[1]), (0, 1, 0)), fill)


def translate_y(image: np.ndarray, fraction: float, fill: Color) -> np.ndarray:
    """Move the image up by a fraction of its height."""
    return affine(image, ((1, 0, 0), (0, 1, fraction * image.shape[0])), fill)


def affine(image: np.ndarray, matrix: Sequence[Sequence[float]], fill: Color) -> np.ndarray:
    """Sample pixel (x, y) from `matrix` · (x, y, 1), bilinear; `fill` (RGB, 0 to 255) outside of the image.

    A pixel's middle is at one half, as in Pillow; in OpenCV it is at 0.
    """
    shifted = np.array(matrix, float)
    shifted[:, 2] += shifted[:, :2].sum(1) / 2 - 0.5
    # OpenCV has vector code for four channels but not for three: the same values in half the time.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    four = cv2.warpAffine(four, shifted, image.shape[1::-1], flags=flags, borderValue=fill)
    return cv2.cvtColor(four, cv2.COLOR_RGBA2RGB, image)


def _linear(image: np.ndarray, scale: np.ndarray | float, offset: np.ndarray | float) -> np.ndarray:
    """Return scale · value + offset, rounded and clipped to 0–255; both are numbers or one per channel."""
    matrix = np.zeros((3, 4))
    matrix[(0, 1, 2), (0, 1, 2)], matrix[:, 3] = scale, offset
    return cv2.transform(image, matrix, image)
