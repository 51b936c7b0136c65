"""`model=convnext_tiny`."""

from typing import ClassVar, Literal

from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class ConvNeXt(Model):
    """Liu et al., arXiv 2201.03545."""

    name: Literal["convnext_tiny"]
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 5
    sources: ClassVar = {"convnext_tiny": "arXiv 2201.03545; timm convnext_tiny"}

    def backbone(self):
        from rp2k_lab.model import convnext

        return convnext.ConvNeXt(**self.arguments())
