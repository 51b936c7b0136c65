"""`model=swin_tiny`."""

from typing import ClassVar, Literal

from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class Swin(Model):
    """Liu et al., arXiv 2103.14030."""

    name: Literal["swin_tiny"]
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 5
    sources: ClassVar = {"swin_tiny": "arXiv 2103.14030; timm swin_tiny_patch4_window7_224"}

    def backbone(self):
        from rp2k_lab.model import swin

        return swin.Swin(**self.arguments())
