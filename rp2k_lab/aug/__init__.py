"""Augmentation on uint8 RGB images: one small class an operation, `operation(image, rng) -> image`.

An operation takes and returns a C-contiguous uint8 array (height, width, 3).  It may write into the array it is given,
which must therefore be the caller's own, and may return that same array.  All its numbers come from the generator it
is given and it keeps no state, so that an augmented image is a pure function of (seed, epoch, position) whatever
thread makes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
    """What a `conf/aug` choice does.

    Attributes:
        crop: the random crop from the resized photo; None: evaluation's center crop.
        operations: what follows on each image, in order.
        mix: what follows on each batch (mixup, CutMix), or None.
    """

    crop: RandomResizedCrop | None
    operations: tuple[Operation, ...]
    mix: Mix | None


def build_augmentation(aug, size: tuple[int, int], mean) -> Augmentation:
    """The augmentation of a `conf/aug` choice, in the published order: crop, flip, color, policy, erasing.

    Args:
        aug: the configuration group (rp2k_lab/config/schema.py).
        size: (height, width) of the network's input; lengths are given at 224 and in proportion to its smaller side.
        mean: the data set's RGB mean on the scale 0 to 1, which fills what has no pixel.
    """
    fill = tuple(round(255 * channel) for channel in mean)
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
