"""Augmentation of uint8 RGB images: one small class per operation, `operation(image, rng) -> image`.

An operation takes and returns a C-contiguous uint8 array (height, width, 3).  It may overwrite its argument and may
return it.  All random numbers come from the given generator, and an operation has no state: an augmented image is a
pure function of (seed, epoch, position), whichever thread makes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rp2k_lab.aug.color import ColorJitter
from rp2k_lab.aug.erase import Cutout, RandomErasing
from rp2k_lab.aug.geometry import HorizontalFlip, RandomResizedCrop
from rp2k_lab.aug.mix import CutMix, Mix, Mixup, soft_targets
from rp2k_lab.aug.policy import AutoAugment, RandAugment

__all__ = [
    "Augmentation",
    "AutoAugment",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "HorizontalFlip",
    "Mix",
    "Mixup",
    "Operation",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "build_augmentation",
    "soft_targets",
]

Operation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Augmentation:
    """The operations of a `conf/aug` choice.

    Attributes:
        crop: the random crop from the resized image; None: evaluation's center crop.
        operations: applied to each crop, in order.
        mix: applied to each batch (mixup, CutMix), or None.
    """

    crop: RandomResizedCrop | None
    operations: tuple[Operation, ...]
    mix: Mix | None


def build_augmentation(aug: Any, size: tuple[int, int], mean: tuple[float, float, float]) -> Augmentation:
    """Build the augmentation of a `conf/aug` choice, in the published order: crop, flip, color, policy, erasing.

    Args:
        aug: the configuration group, a choice of `aug` in rp2k_lab/config/schema.py.
        size: (height, width) of the network's input; lengths in pixels at 224 scale with its smaller side.
        mean: the data set's RGB mean (0 to 1), the color of empty pixels.
    """
    fill = round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])
    operations: list[Operation] = [HorizontalFlip(aug.flip)] if aug.flip else []
    if aug.color:
        operations.append(ColorJitter(aug.color))
    mix = None
    match aug.name:
        case "cutout":
            operations.append(Cutout(max(1, round(aug.length * min(size) / 224)), fill))
        case "random_erasing":
            operations.append(RandomErasing(aug.p, aug.area, aug.ratio, aug.fill, fill))
        case "autoaugment":
            operations.append(AutoAugment(fill))
        case "randaugment":
            levels = aug.magnitude, aug.magnitude_std, aug.magnitude_max
            operations.append(RandAugment(aug.operations, aug.num_ops, aug.p, *levels, aug.increasing, fill))
        case "mixup":
            mix = Mixup(aug.alpha)
        case "cutmix":
            mix = CutMix(aug.alpha, aug.p)
    return Augmentation(RandomResizedCrop(size, aug.crop) if aug.crop else None, tuple(operations), mix)
