"""mixup: Zhang et al., ICLR 2018, arXiv 1710.09412."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rp2k_lab.aug.mix import Mix
from rp2k_lab.core.options import PositiveFloat
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np


@register("aug/mix")
class MixupOptions(Mix):
    name: Literal["mixup"]
    alpha: PositiveFloat = Field(
        description="the fraction of the second image is drawn from Beta(alpha, alpha); 1: uniform"
    )

    def build(self) -> "Mixup":
        """Return the operation."""
        return Mixup(self.alpha)


class Mixup:
    """Blend two images with a weight from Beta(alpha, alpha), section 2."""

    def __init__(self, alpha: float):
        self.alpha = alpha

    def __call__(self, images: "np.ndarray", rngs: "Sequence[np.random.Generator]") -> "tuple[np.ndarray, np.ndarray]":
        import cv2
        import numpy as np

        weights = np.array([rng.beta(self.alpha, self.alpha) for rng in rngs], np.float32)
        mixed = np.empty_like(images)
        for image, partner, weight, target in zip(images, images[::-1], weights.tolist(), mixed, strict=True):
            cv2.addWeighted(image, weight, partner, 1 - weight, 0, target)
        return mixed, weights
