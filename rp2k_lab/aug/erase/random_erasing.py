"""Random erasing: Zhong et al., AAAI 2020, arXiv 1708.04896."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rp2k_lab.aug.erase import Erase
from rp2k_lab.aug.options import Area
from rp2k_lab.core.options import Fraction
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color


@register("aug/erase")
class RandomErasingOptions(Erase):
    name: Literal["random_erasing", "random_erasing_timm"]
    p: Fraction = Field(description="probability that a rectangle of an image is erased")
    area: Area = Field(description="area of the rectangle, smallest and largest fraction of the image")
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest height / width of the rectangle; the largest is its inverse"
    )
    fill: Literal["random", "mean", "black", "white"] = Field(
        description="pixels of the rectangle; random: each value uniform in 0 to 255; mean: of the dataset"
    )

    def build(self, size: tuple[int, int], fill: "Color") -> "RandomErasing":
        """Return the operation."""
        return RandomErasing(self.p, self.area, self.ratio, self.fill, fill)


class RandomErasing:
    """Overwrite a rectangle inside the image with probability `p`, in place.

    Algorithm 1, and the authors' code for open details: a rectangle that does not fit is drawn again, at most 100
    times; one that fits lies anywhere with equal probability.

    Args:
        area: smallest and largest fraction of the image's area, drawn uniformly.
        ratio: smallest height / width; its inverse is the largest; drawn uniformly, as in the paper.
        fill: "random" (each value from 0 to 255: the paper's choice), "mean", "black" or "white" (its alternatives).
        mean: RGB, 0 to 255.
    """

    def __init__(self, p: float, area: tuple[float, float], ratio: float, fill: str, mean: "Color"):
        self.p, self.area, self.ratio = p, area, ratio
        self.fill = {"random": None, "mean": mean, "black": (0, 0, 0), "white": (255, 255, 255)}[fill]

    def __call__(self, image: "np.ndarray", rng: "np.random.Generator") -> "np.ndarray":
        import cv2
        import numpy as np

        if rng.random() >= self.p:
            return image
        box = self._box(image.shape[0], image.shape[1], rng)
        if box is None:
            return image
        top, left, height, width = box
        if self.fill is None:
            noise = np.frombuffer(rng.bytes(3 * height * width), np.uint8).reshape(height, width, 3)
            image[top : top + height, left : left + width] = noise
            return image
        return cv2.rectangle(image, (left, top), (left + width - 1, top + height - 1), self.fill, cv2.FILLED)

    def _box(self, image_height, image_width, rng):
        smallest, largest = self.area
        for _ in range(100):
            size, shape, down, right = rng.random(4).tolist()
            area = image_height * image_width * (smallest + (largest - smallest) * size)
            ratio = self.ratio + (1 / self.ratio - self.ratio) * shape
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < height <= image_height and 0 < width <= image_width:
                return int(down * (image_height - height + 1)), int(right * (image_width - width + 1)), height, width
        return None
