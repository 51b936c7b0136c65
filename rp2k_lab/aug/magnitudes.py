"""Magnitudes of the policies' transformations, and the base of the policies.

Magnitudes have the papers' scale from 0 to 10 and the meaning of the authors' code and of timm (`auto_augment.py`);
`level` below is a tenth of one.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color

Argument = Callable[[float, int], tuple]


def no_argument(level: float, sign: int) -> tuple:
    """Return nothing, for a transformation without magnitude."""
    return ()


def signed(largest: float) -> Argument:
    """Return a function with values from 0 to `largest`, in a random direction."""
    return lambda level, sign: (sign * level * largest,)


def _enhance(level: float, sign: int) -> tuple:
    """Return 0.1 to 1.9; magnitude 5 does not change the image."""
    return (0.1 + 1.8 * level,)


ARGUMENTS: dict[str, Argument] = {
    "Identity": no_argument,
    "AutoContrast": no_argument,
    "Equalize": no_argument,
    "Invert": no_argument,
    "Rotate": signed(30),
    "Posterize": lambda level, sign: (int(4 * level),),
    "Solarize": lambda level, sign: (min(256, int(256 * level)),),
    "SolarizeAdd": lambda level, sign: (min(128, int(110 * level)),),
    "Color": _enhance,
    "Contrast": _enhance,
    "Brightness": _enhance,
    "Sharpness": _enhance,
    "ShearX": signed(0.3),
    "ShearY": signed(0.3),
    "TranslateX": signed(0.45),
    "TranslateY": signed(0.45),
}


class TransformationPolicy:
    """Transformations by name, and the arguments of each by magnitude.

    Args:
        arguments: of each transformation, a function of (level, sign).
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(self, arguments: Mapping[str, Argument], fill: "Color"):
        from rp2k_lab.aug.transforms import transformations

        self.arguments, self.transforms = arguments, transformations(fill)

    def _apply(self, image: "np.ndarray", name: str, magnitude: float, draw: float) -> "np.ndarray":
        return self.transforms[name](image, *self.arguments[name](magnitude / 10, 1 if draw < 0.5 else -1))
