"""Options of the networks: `model.name` chooses one; each module is a family, conf/model/ has the defaults.

The cells are in rp2k_lab/model/<family>.py: they import MindSpore, which takes two seconds.
"""

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from rp2k_lab.core.options import Count, Rate
from rp2k_lab.model.head import HeadOptions

if TYPE_CHECKING:
    from mindspore import nn

Multiplier = Annotated[float, Field(gt=0, le=4)]
DropPathRate = Annotated[
    Rate, Field(description="stochastic depth: drop probability of the last block; earlier blocks linearly less")
]


def _weights(pretrained: str) -> str:
    return pretrained if pretrained == "imagenet" else os.path.abspath(pretrained)


class Model(HeadOptions):
    """A network.  The wider variants are separate choices, so that run names differ.

    Attributes:
        sources: architecture to its papers and reference implementation.  A choice without one is a variant of another
            (a wider one), and is not listed.
    """

    if TYPE_CHECKING:
        name: str  # each family declares its own
    sources: ClassVar[Mapping[str, str]] = {}

    width_multiplier: Multiplier = Field(description="factor of the backbone's channels, including final_width")
    depth_multiplier: Multiplier = Field(description="factor of the number of blocks in each stage")
    head_width: Count | None = Field(description="channels of a 1×1 convolution before the classifier; null: none")
    drop_rate: Rate = Field(description="dropout probability before the classifier")
    freeze: Literal["none", "backbone"] = Field(
        description="none: train all layers; backbone: train only the classifier"
    )
    pretrained: Annotated[str, Field(min_length=1), AfterValidator(_weights)] | None = Field(
        description="imagenet (efficientnet_lite0) or a file: .ckpt (task=convert), .pth, .safetensors; null: none"
    )

    @abstractmethod
    def backbone(self) -> "nn.Cell":
        """Build the backbone: normalized images (batch, 3, height, width) to a feature map (batch, channels, h, w).

        rp2k_lab.model.network.Network says what attributes it needs.
        """

    @classmethod
    def backbone_keys(cls) -> set[str]:
        """Return the keys that are the backbone's: the multipliers, and what the family adds."""
        return cls.model_fields.keys() - {"name", *Model.model_fields} | {"width_multiplier", "depth_multiplier"}

    def arguments(self) -> dict[str, Any]:
        """Return the backbone's keys that are set: all from the command line, those that are passed from Python.

        A backbone therefore has a default for each of its arguments.
        """
        return {key: getattr(self, key) for key in self.backbone_keys() & self.model_fields_set}
