"""TrivialAugment: Müller & Hutter, ICCV 2021, arXiv 2103.10158; the wide variant with the ranges of torchvision."""

import math
from typing import TYPE_CHECKING, Literal

from rp2k_lab.aug.magnitudes import Argument, TransformationPolicy, no_argument, signed
from rp2k_lab.aug.policy import Policy
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color


@register("aug/policy")
class TrivialAugmentOptions(Policy):
    name: Literal["trivialaugment"]

    def build(self, size: tuple[int, int], fill: "Color") -> "TrivialAugment":
        """Return the operation."""
        return TrivialAugment(size, fill)


MAGNITUDES = 31  # levels 0, 1/30 … 1


def wide_arguments(size: tuple[int, int]) -> dict[str, Argument]:
    """Return the arguments of each transformation by level (0 to 1) and sign, for images of `size` (height, width)."""
    # Levels are inexact: 255 · (1 - 8/30) is above 187.  So what becomes a whole number is rounded before.
    return {
        "Identity": no_argument,
        "ShearX": signed(0.99),
        "ShearY": signed(0.99),
        "TranslateX": _translation(size[1], min(size)),
        "TranslateY": _translation(size[0], min(size)),
        "Rotate": signed(135),
        "Brightness": _enhance,
        "Color": _enhance,
        "Contrast": _enhance,
        "Sharpness": _enhance,
        "Posterize": lambda level, sign: (8 - round(6 * level),),
        "Solarize": lambda level, sign: (math.ceil(round(255 * (1 - level), 6)),),
        "AutoContrast": no_argument,
        "Equalize": no_argument,
    }


def _enhance(level: float, sign: int) -> tuple:
    """Return 1 ± 0 to 1 ± 0.99."""
    return (1 + sign * 0.99 * level,)


def _translation(side: int, smaller_side: int) -> Argument:
    """Return fractions of a side: whole pixels, as in torchvision, up to 32 at 224×224 and in proportion elsewhere."""
    return lambda level, sign: (sign * int(round(32 * level * smaller_side / 224, 6)) / side,)


class TrivialAugment(TransformationPolicy):
    """Apply one transformation of one of 31 magnitudes, both drawn uniformly.

    Args:
        size: (height, width) of the images [pixels].
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(self, size: tuple[int, int], fill: "Color"):
        super().__init__(wide_arguments(size), fill)
        self.operations = tuple(self.arguments)

    def __call__(self, image: "np.ndarray", rng: "np.random.Generator") -> "np.ndarray":
        which, strength, sign = rng.random(3).tolist()
        name, level = self.operations[int(len(self.operations) * which)], int(MAGNITUDES * strength) / (MAGNITUDES - 1)
        return self.transforms[name](image, *self.arguments[name](level, 1 if sign < 0.5 else -1))
