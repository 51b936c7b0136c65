"""Random crop and horizontal flip."""

import math

import cv2
import numpy as np

# (top, left, height, width) of a rectangle [pixels].
Box = tuple[int, int, int, int]


class RandomResizedCrop:
    """Scale a random part of the image to `size` (height, width).

    Szegedy et al., CVPR 2015, arXiv 1409.4842, section 6; torchvision's defaults and its fallback to the largest
    centered part after ten misses.

    Args:
        area: smallest and largest fraction of the image's area.
        ratio: smallest and largest width / height, drawn log-uniformly.
    """

    def __init__(
        self,
        size: tuple[int, int],
        area: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        self.size, self.area, self.ratio = size, area, ratio

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        canvas: tuple[int, int] | None = None,
        target: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the crop.

        Args:
            image: uint8 (height, width, 3), may be a view.
            canvas: (height, width) of the black canvas around the centered image; None: the image's size.
            target: the array to write to; None: a new one.
        """
        (image_height, image_width), canvas = image.shape[:2], canvas or image.shape[:2]
        top, left, height, width = self.draw_box(*canvas, rng)
        top, left = top - (canvas[0] - image_height) // 2, left - (canvas[1] - image_width) // 2
        rows, target_rows = _overlap(top, height, image_height, self.size[0])
        columns, target_columns = _overlap(left, width, image_width, self.size[1])
        if target is None:
            target = np.empty((*self.size, 3), np.uint8)
        placed = target[target_rows, target_columns]
        if placed.size < target.size:
            target[:] = 0
        if placed.size:  # scaling the canvas's black beside a narrow image would cost time
            cv2.resize(image[rows, columns], placed.shape[1::-1], dst=placed, interpolation=cv2.INTER_LINEAR)
        return target

    def draw_box(self, image_height: int, image_width: int, rng: np.random.Generator) -> Box:
        """Return a random part of an image of this size."""
        (smallest, largest), (narrowest, widest) = self.area, self.ratio
        for _ in range(10):
            size, shape, down, right = rng.random(4).tolist()
            area = image_height * image_width * (smallest + (largest - smallest) * size)
            ratio = narrowest * (widest / narrowest) ** shape
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                return int(down * (image_height - height + 1)), int(right * (image_width - width + 1)), height, width
        width = min(image_width, round(image_height * widest))
        height = min(image_height, round(image_width / narrowest))
        return (image_height - height) // 2, (image_width - width) // 2, height, width


def _overlap(start: int, length: int, image_length: int, target_length: int) -> tuple[slice, slice]:
    """Return the part of an image's side inside a crop of `length` from `start` on, and its place in the target.

    The target has whole pixels: an edge of the image inside of the crop moves by at most half of one.
    """
    first, last = max(0, start), min(image_length, start + length)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    scale = target_length / length
    begin = min(target_length - 1, round((first - start) * scale))
    return slice(first, last), slice(begin, max(begin + 1, round((last - start) * scale)))


class HorizontalFlip:
    """Mirror left and right with probability `p`, in place."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.flip(image, 1, image) if rng.random() < self.p else image
