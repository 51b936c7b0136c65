"""Augmentation on uint8 RGB images: one small class an operation, `operation(image, rng) -> image`.

An operation draws all its numbers from the generator it is given and keeps no state, so that an augmented image is a
pure function of (seed, epoch, position) whatever thread makes it.
"""

from collections.abc import Callable

import cv2
import numpy as np

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class RandomResizedCrop:
    """A random part of the image, scaled to `size` (height, width).

    Szegedy et al., CVPR 2015, arXiv 1409.4842, section 6; torchvision's defaults and its fallback to the largest
    centred part after ten misses.

    Args:
        area: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, drawn log-uniformly.
    """

    def __init__(self, size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
        self.size, self.area, self.log_ratio = size, area, np.log(ratio)

    def __call__(self, image, rng):
        top, left, height, width = self._box(image.shape[0], image.shape[1], rng)
        part = image[top : top + height, left : left + width]
        return cv2.resize(part, (self.size[1], self.size[0]), interpolation=cv2.INTER_LINEAR)

    def _box(self, image_height, image_width, rng):
        for _ in range(10):
            area = image_height * image_width * rng.uniform(*self.area)
            ratio = np.exp(rng.uniform(*self.log_ratio))
            width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                top = int(rng.integers(image_height - height + 1))
                left = int(rng.integers(image_width - width + 1))
                return top, left, height, width
        low, high = np.exp(self.log_ratio)
        width = min(image_width, round(image_height * high))
        height = min(image_height, round(image_width / low))
        return (image_height - height) // 2, (image_width - width) // 2, height, width


class HorizontalFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p=0.5):
        self.p = p

    def __call__(self, image, rng):
        return cv2.flip(image, 1) if rng.random() < self.p else image


class ColorJitter:
    """Brightness, contrast and saturation, each by a factor in 1 ± `strength`, in random order (as torchvision)."""

    def __init__(self, strength=0.4):
        self.strength = strength

    def __call__(self, image, rng):
        factors = rng.uniform(1 - self.strength, 1 + self.strength, 3)
        for which in rng.permutation(3):
            image = (_brightness, _contrast, _saturation)[which](image, factors[which])
        return image


def _brightness(image, factor):
    return cv2.addWeighted(image, factor, image, 0, 0)


def _contrast(image, factor):
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(grey)[0])


def _saturation(image, factor):
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


class Cutout:
    """One square of `length` pixels filled with `fill` (RGB, 0 to 255).

    DeVries & Taylor, arXiv 1708.04552, section 3: the centre is anywhere in the image, so the square may be cut by
    its border.
    """

    def __init__(self, length, fill):
        self.length, self.fill = length, np.asarray(fill, np.uint8)

    def __call__(self, image, rng):
        height, width = image.shape[:2]
        top = int(rng.integers(height)) - self.length // 2
        left = int(rng.integers(width)) - self.length // 2
        image = image.copy()
        image[max(0, top) : top + self.length, max(0, left) : left + self.length] = self.fill
        return image


from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    crop: RandomResizedCrop | None
    operations: tuple
    mix: object = None

def soft_targets(labels, shares, num_classes):
    raise NotImplementedError

def build_augmentation(aug, size: tuple[int, int], mean):
    """The random crop (or None: evaluation's geometry) and the operations after it, for a `conf/aug` choice.

    Args:
        aug: the configuration group.
        size: (height, width) of the network's input.
        mean: the data set's RGB mean on the scale 0 to 1, Cutout's filling.
    """
    crop = RandomResizedCrop(size, aug.crop) if aug.crop else None
    operations = [HorizontalFlip(aug.flip)] if aug.flip else []
    if aug.color:
        operations.append(ColorJitter(aug.color))
    if aug.name == "cutout":
        length = max(1, round(aug.length * min(size) / 224))
        operations.append(Cutout(length, np.round(255 * np.asarray(mean))))
    return Augmentation(crop, tuple(operations))
