"""`model=vit_small`, `model=vit_small_dinov2`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rp2k_lab.core.options import PositiveFloat
from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class ViT(Model):
    """Dosovitskiy et al., arXiv 2010.11929, in DeiT's size S; DINOv2's has smaller patches and layer scale."""

    name: Literal["vit_small", "vit_small_dinov2"]
    patch: Literal[14, 16] = Field(description="side of a patch [pixels]; divides the sides of `size`")
    grid: Annotated[int, Field(ge=1, le=128)] = Field(
        description="side of the position table [patches]; resized where size / patch differs"
    )
    layer_scale: PositiveFloat | None = Field(description="initial factor of each residual branch; null: none")
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 5
    sources: ClassVar = {
        "vit_small": "arXiv 2010.11929, 2012.12877; timm vit_small_patch16_224",
        "vit_small_dinov2": "arXiv 2304.07193; timm vit_small_patch14_dinov2",
    }

    def backbone(self):
        from rp2k_lab.model import vit

        # The grid at 518 pixels, and timm's initial layer scale.
        dinov2 = {"patch": 14, "grid": 37, "layer_scale": 1e-5} if self.name == "vit_small_dinov2" else {}
        return vit.ViT(**(dinov2 | self.arguments()))
