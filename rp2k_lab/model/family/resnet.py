"""`model=resnet50` and the other networks of the ResNet family."""

from typing import ClassVar, Literal

from pydantic import Field

from rp2k_lab.core.options import Count
from rp2k_lab.model.family import DropPathRate, Model
from rp2k_lab.plugins import register


@register("model")
class ResNet(Model):
    """Depth × attention × cardinality × widths; He et al., arXiv 1512.03385, and what followed it."""

    name: Literal[
        "resnet18",
        "resnet50",
        "resnet101",
        "resnet50_bam",
        "resnet50_bam_wider",
        "resnet50_cbam",
        "seresnet50",
        "seresnext50",
        "seresnext50_wider",
    ]
    cardinality: Count = Field(description="number of groups of the 3×3 convolutions")
    base_width: Count = Field(description="channels of each group in the first stage (64 planes)")
    final_width: Count = Field(description="features before the classifier, at width_multiplier=1")
    drop_path_rate: DropPathRate
    num_stages: ClassVar = 5
    sources: ClassVar = {
        "resnet18": "arXiv 1512.03385; timm resnet18",
        "resnet50": "arXiv 1512.03385; timm resnet50",
        "resnet101": "arXiv 1512.03385; timm resnet101",
        "resnet50_bam": "arXiv 1807.06514; Jongchan/attention-module",
        "resnet50_cbam": "arXiv 1807.06521; Jongchan/attention-module",
        "seresnet50": "arXiv 1709.01507; timm seresnet50",
        "seresnext50": "arXiv 1709.01507, 1611.05431; timm seresnext50_32x4d",
    }

    def backbone(self):
        from rp2k_lab.model import resnet
        from rp2k_lab.model.attention import BAM, CBAM, SqueezeExcitation

        wider = {"final_width": 4096}  # the contest entry's variants (published.md, table 4)
        resnext = {"depth": 50, "attention": SqueezeExcitation, "cardinality": 32, "base_width": 4}
        structures = {
            "resnet18": {"depth": 18},
            "resnet50": {"depth": 50},
            "resnet101": {"depth": 101},
            "resnet50_bam": {"depth": 50, "stage_attention": BAM},
            "resnet50_bam_wider": {"depth": 50, "stage_attention": BAM} | wider,
            "resnet50_cbam": {"depth": 50, "attention": CBAM},
            "seresnet50": {"depth": 50, "attention": SqueezeExcitation},
            "seresnext50": resnext,
            "seresnext50_wider": resnext | wider,
        }
        return resnet.ResNet(**(structures[self.name] | self.arguments()))
