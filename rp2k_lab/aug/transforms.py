"""The transformations that AutoAugment and RandAugment are made of, on uint8 RGB (height, width, 3), in place.

Each gives what Pillow gives, but for rounding (Pillow cuts off, these round) and, in `affine`, a border of one pixel.
What they take, and MindSpore's operators of the same names: `rp2k_lab/aug/policy.py`.
"""

import math

import cv2
import numpy as np

Color = tuple[int, int, int]
_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow and torchvision


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched so that its darkest value becomes 0 and its lightest 255; a flat one stays."""
    rows = image.reshape(len(image), -1)  # NumPy reduces long rows a hundred times faster than pairs of axes
    low, high = (extreme.reshape(-1, 3) for extreme in (rows.min(0), rows.max(0)))
    low, high = low.min(0).astype(float), high.max(0).astype(float)
    flat = low == high
    scale = 255 / np.where(flat, 255, high - low)
    return _linear(image, scale, np.where(flat, 0, -low * scale))


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel mapped so that its histogram becomes even; one of too few different pixels stays."""
    planes = cv2.split(image)
    for plane in planes:
        counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(int)
        step = (plane.size - int(counts[np.flatnonzero(counts)[-1]])) // 255
        if step:
            table = (step // 2 + np.cumsum(counts) - counts) // step
            cv2.LUT(plane, np.minimum(table, 255).astype(np.uint8), plane)
    return cv2.merge(planes, image)


def invert(image: np.ndarray) -> np.ndarray:
    """255 - value."""
    return cv2.bitwise_not(image, image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Only the `bits` highest bits of each value, 0 (all black) to 8 and more (all kept)."""
    return np.bitwise_and(image, np.uint8(0xFF00 >> min(bits, 8) & 0xFF), out=image)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Values of `threshold` (0 to 256) and more inverted."""
    inverted = cv2.threshold(image, threshold - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.bitwise_xor(image, inverted, image)


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """`addend` (0 to 128) added to values below 128."""
    values = np.arange(256)
    return cv2.LUT(image, np.where(values < 128, values + addend, values).astype(np.uint8), image)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend of black (0) and the image (1)."""
    return _linear(image, factor, 0)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend of the image's mean gray (0) and the image (1)."""
    return _linear(image, factor, (1 - factor) * float(_GRAY @ cv2.mean(image)[:3]))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend of the gray image (0) and the image (1)."""
    matrix = np.tile((1 - factor) * _GRAY, (3, 1))
    matrix[(0, 1, 2), (0, 1, 2)] += factor
    return cv2.transform(image, matrix, image)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend of the smoothed image (0) and the image (1); the outermost pixels stay.

    Pillow's kernel, 5 in the middle of a ring of 1 over 13, is a box of nine and 4 in its middle.
    """
    of_box = (1 - factor) * 9 / 13
    blend = cv2.addWeighted(image, 1 - of_box, cv2.blur(image, (3, 3)), of_box, 0)
    image[1:-1, 1:-1] = blend[1:-1, 1:-1]
    return image


def rotate(image: np.ndarray, degrees: float, fill: Color) -> np.ndarray:
    """About the middle, counter-clockwise."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = image.shape[0] / 2, image.shape[1] / 2
    matrix = (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)
    return affine(image, matrix, fill)


def shear_x(image: np.ndarray, factor: float, fill: Color) -> np.ndarray:
    """Row y moves left by `factor` · y; the first row stays."""
    return affine(image, ((1, factor, 0), (0, 1, 0)), fill)


def shear_y(image: np.ndarray, factor: float, fill: Color) -> np.ndarray:
    """Column x moves up by `factor` · x; the first column stays."""
    return affine(image, ((1, 0, 0), (factor, 1, 0)), fill)


def translate_x(image: np.ndarray, share: float, fill: Color) -> np.ndarray:
    """To the left by a share of the width."""
    return affine(image, ((1, 0, share * image.shape[1]), (0, 1, 0)), fill)


def translate_y(image: np.ndarray, share: float, fill: Color) -> np.ndarray:
    """Upwards by a share of the height."""
    return affine(image, ((1, 0, 0), (0, 1, share * image.shape[0])), fill)


def affine(image: np.ndarray, matrix, fill: Color) -> np.ndarray:
    """Pixel (x, y) comes from `matrix` · (x, y, 1), bilinear; `fill` (RGB, 0 to 255) where that is outside.

    Coordinates as Pillow's, with a pixel's middle at one half; OpenCV has it at 0.
    """
    matrix = np.array(matrix, float)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    # OpenCV has vector code for four channels but not for three: the same values in half the time.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    four = cv2.warpAffine(four, matrix, image.shape[1::-1], flags=flags, borderValue=fill)
    return cv2.cvtColor(four, cv2.COLOR_RGBA2RGB, image)


def _linear(image, scale, offset):
    """scale · value + offset, rounded and limited to 0 to 255; numbers or one a channel."""
    matrix = np.zeros((3, 4))
    matrix[(0, 1, 2), (0, 1, 2)], matrix[:, 3] = scale, offset
    return cv2.transform(image, matrix, image)
