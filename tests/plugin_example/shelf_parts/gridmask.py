"""aug/erase=gridmask: erase a grid of squares (Chen et al., arXiv 2001.04086)."""

from typing import Annotated, Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.aug.erase import Erase
from rp2k_lab.core.options import Count, Fraction


@register("aug/erase")
class GridMask(Erase):
    """Options of GridMask."""

    name: Literal["gridmask"]
    p: Fraction = Field(description="probability that an image is masked")
    cells: Count = Field(description="squares along the image's smaller side")
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of a cell's side that stays visible")

    def build(self, size, fill):
        """Return a function of (image, rng) that masks the image in place."""
        unit = max(2, min(size) // self.cells)
        hole = max(1, round(unit * (1 - self.keep)))

        def mask(image, rng):
            drawn, down, right = rng.random(3).tolist()
            if drawn >= self.p:
                return image
            for top in range(int(down * unit) - unit, image.shape[0], unit):
                for left in range(int(right * unit) - unit, image.shape[1], unit):
                    image[max(0, top) : max(0, top + hole), max(0, left) : max(0, left + hole)] = fill
            return image

        return mask
