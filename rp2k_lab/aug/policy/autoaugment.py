"""AutoAugment: Cubuk et al., CVPR 2019, arXiv 1805.09501."""

from typing import TYPE_CHECKING, Literal

from rp2k_lab.aug.magnitudes import ARGUMENTS, TransformationPolicy
from rp2k_lab.aug.policy import Policy
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color


@register("aug/policy")
class AutoAugmentOptions(Policy):
    name: Literal["autoaugment"]

    def build(self, size: tuple[int, int], fill: "Color") -> "AutoAugment":
        """Return the operation."""
        return AutoAugment(fill)


# 4 to 8 bits, the paper's table 6.
AUTOAUGMENT_ARGUMENTS = ARGUMENTS | {"Posterize": lambda level, sign: (4 + int(4 * level),)}
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


class AutoAugment(TransformationPolicy):
    """Apply one of the ImageNet policy's 25 pairs of transformations, each of the two with a separate probability.

    The pairs are the paper's table 9, the ranges table 6.

    Args:
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(self, fill: "Color"):
        super().__init__(AUTOAUGMENT_ARGUMENTS, fill)

    def __call__(self, image: "np.ndarray", rng: "np.random.Generator") -> "np.ndarray":
        which, *draws = rng.random(5).tolist()
        pair = IMAGENET_POLICY[int(len(IMAGENET_POLICY) * which)]
        for (name, p, magnitude), drawn, sign in zip(pair, draws[:2], draws[2:], strict=True):
            if drawn < p:
                image = self._apply(image, name, magnitude, sign)
        return image
