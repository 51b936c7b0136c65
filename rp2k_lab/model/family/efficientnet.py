"""`model=efficientnet_b0`, `model=efficientnet_lite0` and its wider and deeper variants."""

from typing import ClassVar, Literal

from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class EfficientNet(Model):
    """Tan & Le, arXiv 1905.11946; Lite is the authors' variant for phones."""

    name: Literal["efficientnet_b0", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 8
    sources: ClassVar = {
        "efficientnet_b0": "arXiv 1905.11946; timm efficientnet_b0",
        "efficientnet_lite0": "arXiv 1905.11946; timm tf_efficientnet_lite0",
    }

    def backbone(self):
        from rp2k_lab.model import efficientnet

        # Multipliers of width and depth in the authors' code (efficientnet_lite_builder.py).
        variants = {"efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
        width, depth = variants.get(self.name, (1.0, 1.0))
        arguments = {"width_multiplier": 1.0, "depth_multiplier": 1.0} | self.arguments()
        arguments["width_multiplier"] *= width
        arguments["depth_multiplier"] *= depth
        return efficientnet.EfficientNet(lite=self.name != "efficientnet_b0", **arguments)
