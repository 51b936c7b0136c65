"""model=tiny_cnn: three convolutions, for a first look at a data set."""

from typing import ClassVar, Literal

from pydantic import Field

from rp2k_lab import register
from rp2k_lab.core.options import Count
from rp2k_lab.model.family import Model


@register("model")
class TinyCnn(Model):
    """Options of the network: those of every network, and the channels of the first convolution."""

    name: Literal["tiny_cnn"]
    channels: Count = Field(description="channels after the first convolution; they double with each of the others")
    sources: ClassVar = {"tiny_cnn": "an example"}

    def backbone(self):
        """Build the backbone: normalized images (batch, 3, height, width) to a feature map."""
        from mindspore import nn

        from rp2k_lab.model.layers import ConvNorm
        from rp2k_lab.model.scaling import scaled

        channels = [scaled(self.channels * 2**i, self.width_multiplier) for i in range(3)]

        class Backbone(nn.Cell):
            """Three convolutions, each of which halves the sides."""

            smallest_input, input_multiple = 8, 1
            num_features = channels[-1]

            def __init__(self):
                super().__init__()
                widths = zip([3, *channels[:-1]], channels, strict=True)
                self.layers = nn.SequentialCell([ConvNorm(before, after, 3, 2) for before, after in widths])

            def construct(self, images):
                return self.layers(images)

            def final_norm(self):
                return self.layers[-1].bn

        return Backbone()
