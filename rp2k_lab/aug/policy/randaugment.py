"""RandAugment: Cubuk et al., NeurIPS 2020, arXiv 1909.13719, section 3; options beyond the paper are timm's."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from rp2k_lab.aug.magnitudes import ARGUMENTS, TransformationPolicy
from rp2k_lab.aug.policy import Policy
from rp2k_lab.core.options import Fraction, NonNegativeFloat
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np

    from rp2k_lab.aug.transforms import Color


@register("aug/policy")
class RandAugmentOptions(Policy):
    name: Literal["randaugment", "randaugment_timm"]
    operations: Literal["paper", "timm"] = Field(
        description="set to draw from; paper: 14, one of them the identity; timm: 15, with invert and solarize-add"
    )
    num_ops: Annotated[int, Field(ge=1, le=16)] = Field(description="number of transformations drawn per image")
    p: Fraction = Field(description="probability that a drawn transformation is applied")
    magnitude: Annotated[float, Field(ge=0, le=30)] = Field(
        description="strength; 10: the end of AutoAugment's ranges, extrapolated above"
    )
    magnitude_std: NonNegativeFloat = Field(description="standard deviation of the drawn magnitudes; 0: all equal")
    magnitude_max: Annotated[float, Field(gt=0, le=30)] = Field(
        description="upper limit of the drawn magnitudes; the lower limit is 0"
    )
    increasing: bool = Field(
        description="magnitude of the identity; true: always 0; false: 5 for the enhancements, as released"
    )

    @model_validator(mode="after")
    def _check_magnitude(self):
        if self.magnitude > self.magnitude_max:
            raise ValueError(f"magnitude={self.magnitude:g}: above aug.policy.magnitude_max={self.magnitude_max:g}")
        return self

    def build(self, size: tuple[int, int], fill: "Color") -> "RandAugment":
        """Return the operation."""
        return RandAugment(self, fill)


def _enhance_increasing(level: float, sign: int) -> tuple:
    """Return 1 ± 0 to 1 ± 0.9; magnitude 0 does not change the image."""
    return (max(0.1, 1 + sign * 0.9 * level),)


# More magnitude, more change: timm's `inc1`.
INCREASING_ARGUMENTS = ARGUMENTS | {
    "Posterize": lambda level, sign: (max(0, 4 - int(4 * level)),),
    "Solarize": lambda level, sign: (max(0, 256 - int(256 * level)),),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _enhance_increasing),
}
_COMMON = (
    "AutoContrast", "Equalize", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip
RANDAUGMENT_OPERATIONS = {"paper": ("Identity", *_COMMON), "timm": (*_COMMON, "Invert", "SolarizeAdd")}


class RandAugment(TransformationPolicy):
    """Apply `options.num_ops` transformations of one magnitude, drawn with replacement.

    Args:
        options: magnitudes are on AutoAugment's scale.
        fill: RGB (0 to 255) of pixels from outside the image.
    """

    def __init__(self, options: RandAugmentOptions, fill: "Color"):
        super().__init__(INCREASING_ARGUMENTS if options.increasing else ARGUMENTS, fill)
        self.options, self.operations = options, RANDAUGMENT_OPERATIONS[options.operations]

    def __call__(self, image: "np.ndarray", rng: "np.random.Generator") -> "np.ndarray":
        options = self.options
        draws, noise = rng.random((options.num_ops, 3)).tolist(), rng.standard_normal(options.num_ops).tolist()
        for (which, drawn, sign), deviation in zip(draws, noise, strict=True):
            if drawn < options.p:
                magnitude = min(max(0, options.magnitude + options.magnitude_std * deviation), options.magnitude_max)
                image = self._apply(image, self.operations[int(len(self.operations) * which)], magnitude, sign)
        return image
