"""CutMix: Yun et al., ICCV 2019, arXiv 1905.04899."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rp2k_lab.aug.mix import Mix
from rp2k_lab.core.options import Fraction, PositiveFloat
from rp2k_lab.plugins import register

if TYPE_CHECKING:
    import numpy as np


@register("aug/mix")
class CutMixOptions(Mix):
    name: Literal["cutmix"]
    alpha: PositiveFloat = Field(
        description="the fraction of the second image is drawn from Beta(alpha, alpha); 1: uniform"
    )
    p: Fraction = Field(description="probability that a rectangle of an image is replaced by another image's")

    def build(self) -> "CutMix":
        """Return the operation."""
        return CutMix(self.alpha, self.p)


class CutMix:
    """Paste a rectangle of the partner with probability `p`, section 3.1.

    The rectangle has the image's proportions and 1 - Beta(alpha, alpha) of its area; its center is anywhere, so the
    border may cut it.  The weight is the fraction of original pixels.
    """

    def __init__(self, alpha: float, p: float):
        self.alpha, self.p = alpha, p

    def __call__(self, images: "np.ndarray", rngs: "Sequence[np.random.Generator]") -> "tuple[np.ndarray, np.ndarray]":
        import numpy as np

        mixed, weights = images.copy(), np.ones(len(images), np.float32)
        for i, (partner, rng) in enumerate(zip(images[::-1], rngs, strict=True)):
            rows, columns = self._box(partner.shape[0], partner.shape[1], rng)
            mixed[i, rows, columns] = partner[rows, columns]
            weights[i] -= (rows.stop - rows.start) * (columns.stop - columns.start) / partner[..., 0].size
        return mixed, weights

    def _box(self, image_height, image_width, rng):
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))
        drawn, down, right = rng.random(3).tolist()
        height, width = (round(side * image_height), round(side * image_width)) if drawn < self.p else (0, 0)
        top, left = int(down * image_height) - height // 2, int(right * image_width) - width // 2
        rows = slice(max(0, top), min(image_height, top + height))
        return rows, slice(max(0, left), min(image_width, left + width))
