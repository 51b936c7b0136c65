"""AutoAugment and RandAugment: which transformations, how often and how strong.

Magnitudes have the papers' scale from 0 to 10 and the meaning of the authors' code and of timm (`auto_augment.py`);
`level` below is a tenth of one.

MindSpore's eager operators, µs per image at 224 in one thread, this module's in brackets: Rotate 470 (227),
AutoContrast 431 (90), Equalize 312 (383), Posterize 96 (6), Solarize 137 (13), AdjustContrast 157 (64), AdjustSharpness
330 (125).  None is used: the only faster one, Equalize, deviates from Pillow by up to 2.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from rp2k_lab.aug import transforms

Argument = Callable[[float, int], tuple]


def _none(level: float, sign: int) -> tuple:
    return ()


def _signed(largest: float) -> Argument:
    """Return a function with values from 0 to `largest`, in a random direction."""
    return lambda level, sign: (sign * level * largest,)


def _enhance(level: float, sign: int) -> tuple:
    """Return 0.1 to 1.9; magnitude 5 does not change the image."""
    return (0.1 + 1.8 * level,)


def _enhance_increasing(level: float, sign: int) -> tuple:
    """Return 1 ± 0 to 1 ± 0.9; magnitude 0 does not change the image."""
    return (max(0.1, 1 + sign * 0.9 * level),)


ARGUMENTS: dict[str, Argument] = {
    "Identity": _none,
    "AutoContrast": _none,
    "Equalize": _none,
    "Invert": _none,
    "Rotate": _signed(30),
    "Posterize": lambda level, sign: (int(4 * level),),
    "Solarize": lambda level, sign: (min(256, int(256 * level)),),
    "SolarizeAdd": lambda level, sign: (min(128, int(110 * level)),),
    "Color": _enhance,
    "Contrast": _enhance,
    "Brightness": _enhance,
    "Sharpness": _enhance,
    "ShearX": _signed(0.3),
    "ShearY": _signed(0.3),
    "TranslateX": _signed(0.45),
    "TranslateY": _signed(0.45),
}
# More magnitude, more change: timm's `inc1`.
INCREASING_ARGUMENTS = ARGUMENTS | {
    "Posterize": lambda level, sign: (max(0, 4 - int(4 * level)),),
    "Solarize": lambda level, sign: (max(0, 256 - int(256 * level)),),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _enhance_increasing),
}
# 4 to 8 bits, AutoAugment's table 6.
AUTOAUGMENT_ARGUMENTS = ARGUMENTS | {"Posterize": lambda level, sign: (4 + int(4 * level),)}

_POINTWISE = {
    "Identity": lambda image: image,
    "AutoContrast": transforms.autocontrast,
    "Equalize": transforms.equalize,
    "Invert": transforms.invert,
    "Posterize": transforms.posterize,
    "Solarize": transforms.solarize,
    "SolarizeAdd": transforms.solarize_add,
    "Color": transforms.saturation,
    "Contrast": transforms.contrast,
    "Brightness": transforms.brightness,
    "Sharpness": transforms.sharpness,
}
_GEOMETRIC = {
    "Rotate": transforms.rotate,
    "ShearX": transforms.shear_x,
    "ShearY": transforms.shear_y,
    "TranslateX": transforms.translate_x,
    "TranslateY": transforms.translate_y,
}

# (transformation, probability, magnitude) twice per line; magnitudes without effect are as printed in the paper.
IMAGENET_POLICY = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

_COMMON = (
    "AutoContrast", "Equalize", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip
RANDAUGMENT_OPERATIONS = {"paper": ("Identity", *_COMMON), "timm": (*_COMMON, "Invert", "SolarizeAdd")}


class _Policy:
    def __init__(self, arguments: dict[str, Argument], fill: transforms.Color):
        self.arguments = arguments
        self.transforms = _POINTWISE | {name: partial(apply, fill=fill) for name, apply in _GEOMETRIC.items()}

    def _apply(self, image: np.ndarray, name: str, magnitude: float, draw: float) -> np.ndarray:
        return self.transforms[name](image, *self.arguments[name](magnitude / 10, 1 if draw < 0.5 else -1))


class AutoAugment(_Policy):
    """Apply one of the ImageNet policy's 25 pairs of transformations, each of the two with a separate probability.

    Cubuk et al., CVPR 2019, arXiv 1805.09501: table 9 and, for the ranges, table 6.

    Args:
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(self, fill: transforms.Color):
        super().__init__(AUTOAUGMENT_ARGUMENTS, fill)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        which, *draws = rng.random(5).tolist()
        pair = IMAGENET_POLICY[int(len(IMAGENET_POLICY) * which)]
        for (name, p, magnitude), drawn, sign in zip(pair, draws[:2], draws[2:], strict=True):
            if drawn < p:
                image = self._apply(image, name, magnitude, sign)
        return image


class RandAugment(_Policy):
    """Apply `num_ops` transformations of one magnitude, drawn with replacement.

    Cubuk et al., NeurIPS 2020, arXiv 1909.13719, section 3; arguments beyond the paper are timm's.

    Args:
        operations: "paper" (14 with the identity) or "timm" (15: inversion and solarize-add for the identity).
        p: probability of each drawn transformation.
        magnitude: 0 to 10 on AutoAugment's scale; above 10 extrapolates.
        magnitude_std: standard deviation of the magnitude, drawn for each transformation.
        magnitude_max: upper limit of a drawn magnitude; the lower limit is 0.
        increasing: whether posterize, solarize and the four enhancements also change more with more magnitude.
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(
        self,
        operations: str,
        num_ops: int,
        p: float,
        magnitude: float,
        magnitude_std: float,
        magnitude_max: float,
        increasing: bool,
        fill: transforms.Color,
    ):
        super().__init__(INCREASING_ARGUMENTS if increasing else ARGUMENTS, fill)
        self.operations, self.num_ops, self.p = RANDAUGMENT_OPERATIONS[operations], num_ops, p
        self.magnitude, self.magnitude_std, self.magnitude_max = magnitude, magnitude_std, magnitude_max

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        draws, noise = rng.random((self.num_ops, 3)).tolist(), rng.standard_normal(self.num_ops).tolist()
        for (which, drawn, sign), deviation in zip(draws, noise, strict=True):
            if drawn < self.p:
                magnitude = min(max(0, self.magnitude + self.magnitude_std * deviation), self.magnitude_max)
                image = self._apply(image, self.operations[int(len(self.operations) * which)], magnitude, sign)
        return image
