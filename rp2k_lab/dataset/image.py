"""Photos as arrays: reading, and the resize that decides what a network sees.  Pure functions on uint8 RGB images."""

from pathlib import Path

import cv2
import numpy as np

from rp2k_lab.errors import DataError


def read_image(path: Path) -> np.ndarray:
    """Decode a JPEG or PNG file to uint8 RGB (height, width, 3), turned upright as its EXIF says.

    Raises:
        DataError: the file is missing, empty or no picture; the message names it.
    """
    try:
        encoded = np.fromfile(path, np.uint8)  # not cv2.imread, which answers None to every kind of failure
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if encoded.size else None
    if image is None:
        raise DataError(f"{path}: not a readable picture ({encoded.size} bytes)")
    return image


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Structure-Retention Resize: the whole image scaled to fit `size` (height, width), centred on black.

    uint8 (h, w, 3) to uint8 (*size, 3).  The contest entry's most effective single change (published.md, table 3).
    """
    height, width = size
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height = min(height, max(1, round(image.shape[0] * scale)))
    inner_width = min(width, max(1, round(image.shape[1] * scale)))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = stretch(image, (inner_height, inner_width))
    return canvas


def stretch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale to `size` (height, width) whatever the shape: uint8 (h, w, 3) to uint8 (*size, 3).

    Bilinear; where a side shrinks to half or less, area averaging, since bilinear sampling would skip pixels there.
    """
    height, width = size
    skips = max(image.shape[0] / height, image.shape[1] / width) >= 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


RESIZE = {"letterbox": letterbox, "stretch": stretch}


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (*size, 3) of a uint8 image that is at least as large."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def resized_size(size: tuple[int, int], crop_ratio: float) -> tuple[int, int]:
    """(height, width) of which a centre crop of `size` keeps `crop_ratio` of each side: 224 / 0.875 = 256."""
    return round(size[0] / crop_ratio), round(size[1] / crop_ratio)
