"""The random crop and the flip."""

import math

import cv2


class RandomResizedCrop:
    """A random part of the image, scaled to `size` (height, width); a new array, the image may be a view.

    Szegedy et al., CVPR 2015, arXiv 1409.4842, section 6; torchvision's defaults and its fallback to the largest
    centred part after ten misses.

    Args:
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn log-uniformly.
    """

    def __init__(self, size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
        self.size, self.area, self.ratio = size, area, ratio

    def __call__(self, image, rng):
        top, left, height, width = self._box(image.shape[0], image.shape[1], rng)
        part = image[top : top + height, left : left + width]
        return cv2.resize(part, (self.size[1], self.size[0]), interpolation=cv2.INTER_LINEAR)

    def _box(self, image_height, image_width, rng):
        (smallest, largest), (narrowest, widest) = self.area, self.ratio
        for _ in range(10):
            share, shape, down, right = rng.random(4).tolist()
            area = image_height * image_width * (smallest + (largest - smallest) * share)
            ratio = narrowest * (widest / narrowest) ** shape
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                return int(down * (image_height - height + 1)), int(right * (image_width - width + 1)), height, width
        width = min(image_width, round(image_height * widest))
        height = min(image_height, round(image_width / narrowest))
        return (image_height - height) // 2, (image_width - width) // 2, height, width


class HorizontalFlip:
    """Mirror left and right with probability `p`; in place."""

    def __init__(self, p=0.5):
        self.p = p

    def __call__(self, image, rng):
        return cv2.flip(image, 1, image) if rng.random() < self.p else image
