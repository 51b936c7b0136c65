"""ConvNeXt (Liu et al., CVPR 2022, arXiv 2201.03545); parameter names are timm's."""

from collections.abc import Sequence

import numpy as np
from mindspore import nn, ops

from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.dropout import drop_path
from rp2k_lab.model.layers import LayerNorm, LayerScale, Mlp, conv, global_mean
from rp2k_lab.model.scaling import scaled

DEPTHS, CHANNELS = (3, 3, 9, 3), (96, 192, 384, 768)  # ConvNeXt-T
EPS = 1e-6  # of all norms, as in the authors' code
INITIAL_SCALE = 1e-6  # of a residual branch (appendix A.1 of the paper)


class MapNorm(LayerNorm):
    """Layer norm over the channels of (batch, channels, height, width)."""

    def construct(self, x):
        return super().construct(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Block(nn.Cell):
    """Depthwise 7×7 convolution, layer norm, MLP, layer scale and a residual (figure 4 of the paper, right)."""

    def __init__(self, channels: int, drop: nn.Cell):
        super().__init__()
        self.conv_dw = conv(channels, channels, 7, groups=channels, bias=True)
        self.norm = LayerNorm(channels, EPS)
        self.mlp = Mlp(channels, 4 * channels)
        self.layer_scale = LayerScale(channels, INITIAL_SCALE)
        self.drop_path = drop

    def construct(self, x):
        y = self.layer_scale(self.mlp(self.norm(self.conv_dw(x).transpose(0, 2, 3, 1))))
        return ops.add(x, self.drop_path(y.transpose(0, 3, 1, 2)))


class Stage(nn.Cell):
    """[Layer norm and 2×2 convolution of stride 2], then a block for each of `drops`."""

    def __init__(self, channels: int, out: int, halve: bool, drops: Sequence[nn.Cell]):
        super().__init__()
        halving = [MapNorm(channels, EPS), conv(channels, out, 2, 2, bias=True, padding=0)]
        self.downsample = nn.SequentialCell(halving) if halve else nn.Identity()
        self.blocks = nn.SequentialCell([Block(out, drop) for drop in drops])

    def construct(self, x):
        return self.blocks(self.downsample(x))


class ConvNeXt(Backbone):
    """Normalized float32 images (batch, 3, height, width) to pooled features (batch, channels, 1, 1).

    Section 2 of the paper, ConvNeXt-T; 768 channels unless multiplied.  The last layer norm follows the mean over
    positions, so the backbone pools, and its output is a map of one position.

    Args:
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 in the first.
        width_multiplier: factor for all channels.
        depth_multiplier: factor for every stage's blocks.  Both round to the nearest integer (a half up), at least 1.
    """

    num_stages = 1 + len(DEPTHS)
    smallest_input = 32
    input_multiple = 1
    dense_std = conv_std = 0.02  # deviation of the initial weights (appendix A.1)

    def __init__(self, drop_path_rate: float = 0.0, width_multiplier: float = 1.0, depth_multiplier: float = 1.0):
        super().__init__()
        channels = [scaled(n, width_multiplier) for n in CHANNELS]
        depths = [scaled(n, depth_multiplier) for n in DEPTHS]
        self.num_features = channels[-1]
        self.stem = nn.SequentialCell([conv(3, channels[0], 4, 4, bias=True, padding=0), MapNorm(channels[0], EPS)])
        drops = [drop_path(rate) for rate in np.linspace(0.0, drop_path_rate, sum(depths))]
        stages, before, first = [], channels[0], 0
        for i, (out, depth) in enumerate(zip(channels, depths, strict=True)):
            stages.append(Stage(before, out, i > 0, drops[first : first + depth]))
            before, first = out, first + depth
        self.stages = nn.SequentialCell(stages)
        self.norm = LayerNorm(self.num_features, EPS)

    def parts(self):
        return [(self.stem,), *((stage,) for stage in self.stages.cell_list)]

    def run(self, x, first, last):
        if first == 0:
            x = self.stem(x)
        for stage in self.stages.cell_list[max(first - 1, 0) : last - 1]:
            x = stage(x)
        if first <= self.num_stages < last:
            x = self.norm(global_mean(x)).reshape(-1, self.num_features, 1, 1)
        return x

    def final_norm(self):
        return None
