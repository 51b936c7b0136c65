"""`model=efficientnet_b0`, `model=efficientnet_lite0`."""

from typing import ClassVar, Literal

from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class EfficientNet(Model):
    """Tan & Le, arXiv 1905.11946; Lite is the authors' variant for phones."""

    name: Literal["efficientnet_b0", "efficientnet_lite0"]
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 8
    sources: ClassVar = {
        "efficientnet_b0": "arXiv 1905.11946; timm efficientnet_b0",
        "efficientnet_lite0": "arXiv 1905.11946; timm tf_efficientnet_lite0",
    }

    def backbone(self):
        from rp2k_lab.model import efficientnet

        return efficientnet.EfficientNet(lite=self.name == "efficientnet_lite0", **self.arguments())
