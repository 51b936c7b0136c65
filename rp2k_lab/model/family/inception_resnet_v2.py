"""`model=inception_resnet_v2` and its wider variant."""

from typing import ClassVar, Literal

from pydantic import Field

from rp2k_lab.core.options import Count
from rp2k_lab.model.family import Model
from rp2k_lab.plugins import register


@register("model")
class InceptionResNetV2(Model):
    """Szegedy et al., arXiv 1602.07261."""

    name: Literal["inception_resnet_v2", "inception_resnet_v2_wider"]
    final_width: Count = Field(description="features before the classifier, at width_multiplier=1")
    num_stages: ClassVar = 4
    sources: ClassVar = {"inception_resnet_v2": "arXiv 1602.07261; timm inception_resnet_v2"}

    def backbone(self):
        from rp2k_lab.model import inception_resnet_v2

        # The contest entry's wider variant: published.md, table 4.
        wider = {"final_width": 4096} if self.name.endswith("_wider") else {}
        return inception_resnet_v2.InceptionResNetV2(**(wider | self.arguments()))
