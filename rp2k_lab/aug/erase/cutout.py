"""Cutout: DeVries & Taylor, arXiv 1708.04552."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rp2k_lab.aug.erase import Erase
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color


@register("aug/erase")
class CutoutOptions(Erase):
    name: Literal["cutout"]
    length: Annotated[int, Field(ge=1, le=224)] = Field(
        description="side of the square [pixels] in a 224×224 image; scaled with the image's size"
    )

    def build(self, size: tuple[int, int], fill: "Color") -> "Cutout":
        """Return the operation, with a square of at least one pixel."""
        return Cutout(max(1, round(self.length * min(size) / 224)), fill)


class Cutout:
    """Fill a square of `length` pixels with `fill` (RGB, 0 to 255), in place.

    Section 3: the center is anywhere in the image, so the border may cut the square.
    """

    def __init__(self, length: int, fill: "Color"):
        self.length, self.fill = length, fill

    def __call__(self, image: "np.ndarray", rng: "np.random.Generator") -> "np.ndarray":
        import cv2

        down, right = rng.random(2).tolist()
        top = int(down * image.shape[0]) - self.length // 2
        left = int(right * image.shape[1]) - self.length // 2
        end = left + self.length - 1, top + self.length - 1
        # OpenCV clips at the border; NumPy needs 8 times as long to write a color into a rectangle.
        return cv2.rectangle(image, (left, top), end, self.fill, cv2.FILLED)
