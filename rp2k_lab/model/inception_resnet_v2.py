"""Inception-ResNet-v2 (Szegedy et al., AAAI 2017, arXiv 1602.07261); parameter names follow timm's.

A layer is (channels, kernel[, stride[, padding]]); a branch is a list of layers; a block is a list of branches.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from mindspore import nn, ops

from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.layers import ConvNorm, conv
from rp2k_lab.model.scaling import scaled

_ConvNorm = partial(ConvNorm, eps=1e-3)
Layers = Sequence[tuple[Any, ...]]

# Branches of the blocks (figures 7, 10, 13, 16 to 19 of the paper); stem and residual scales follow timm.
MIXED_5B = [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]]
BLOCK_35 = [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]]
MIXED_6A = [[(384, 3, 2, 0)], [(256, 1), (256, 3), (384, 3, 2, 0)]]
BLOCK_17 = [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]]
MIXED_7A = [[(256, 1), (384, 3, 2, 0)], [(256, 1), (288, 3, 2, 0)], [(256, 1), (288, 3), (320, 3, 2, 0)]]
BLOCK_8 = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]
STEM, POOL, REPEATS = (32, 32, 64, 80, 192), 64, (10, 20, 9)


def _narrowed(branches: Sequence[Layers], multiplier: float) -> list[Layers]:
    return [[(scaled(width, multiplier), *shape) for width, *shape in layers] for layers in branches]


def _width(branches: Sequence[Layers]) -> int:
    """Return the channels of the concatenated branches."""
    return sum(layers[-1][0] for layers in branches)


def _branch(channels: int, layers: Layers) -> nn.Cell:
    cells = []
    for width, *shape in layers:
        cells.append(_ConvNorm(channels, width, *shape))
        channels = width
    return cells[0] if len(cells) == 1 else nn.SequentialCell(cells)


class Mixed(nn.Cell):
    """Parallel branches and a pooling branch, concatenated.

    Args:
        pool: cells of the pooling branch.
    """

    def __init__(self, channels: int, branches: Sequence[Layers], pool: list[nn.Cell]):
        super().__init__()
        cells = [_branch(channels, layers) for layers in branches]
        self.names = [f"branch{i}" for i in range(len(cells) + 1)]
        for name, cell in zip(self.names, [*cells, nn.SequentialCell(pool)], strict=True):
            setattr(self, name, cell)
        self.branches = len(cells)

    def construct(self, x):
        if self.branches == 2:
            return ops.concat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)
        return ops.concat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class Residual(nn.Cell):
    """Parallel branches, then a 1×1 convolution with bias, scaled and added to the input.

    Args:
        scale: factor of the residual (section 3.3 of the paper, against instability).
        last: leave out the ReLU at the end.
    """

    def __init__(self, channels: int, branches: Sequence[Layers], scale: float, last: bool = False):
        super().__init__()
        self.scale, self.branches = scale, len(branches)
        for i, layers in enumerate(branches):
            setattr(self, f"branch{i}", _branch(channels, layers))
        self.conv2d = conv(_width(branches), channels, 1, bias=True)
        self.act = nn.Identity() if last else nn.ReLU()

    def construct(self, x):
        if self.branches == 2:
            y = ops.concat((self.branch0(x), self.branch1(x)), 1)
        else:
            y = ops.concat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)
        return self.act(ops.add(self.conv2d(y) * self.scale, x))


class InceptionResNetV2(Backbone):
    """Normalized float32 images (batch, 3, height, width), sides of at least 75, to features (batch, channels, h, w).

    Figure 15 of the paper with the stem of Inception-ResNet-v1 (figure 14) and then Mixed_5b, as in the authors' code,
    which the common weights come from, and in timm.

    Args:
        final_width: channels of the last convolution, before `width_multiplier`; 1536, and 4096 in the contest entry's
            "wider" variant.
        width_multiplier: factor for every convolution's channels; after a concatenation they are the branches' sum.
        depth_multiplier: factor for the three sequences of residual blocks; `block8` (figure 15) stays single.  Both
            round to the nearest integer (a half up), at least 1.
    """

    num_stages = 4
    smallest_input = 75
    input_multiple = 1

    def __init__(self, final_width: int = 1536, width_multiplier: float = 1.0, depth_multiplier: float = 1.0):
        super().__init__()
        blocks = (MIXED_5B, BLOCK_35, MIXED_6A, BLOCK_17, MIXED_7A, BLOCK_8)
        mixed_5b, block_35, mixed_6a, block_17, mixed_7a, block_8 = (_narrowed(b, width_multiplier) for b in blocks)
        repeats = [scaled(n, depth_multiplier) for n in REPEATS]
        a, b, c, d, stem = (scaled(n, width_multiplier) for n in STEM)
        pooled, self.num_features = scaled(POOL, width_multiplier), scaled(final_width, width_multiplier)
        self.conv2d_1a = _ConvNorm(3, a, 3, 2, 0)
        self.conv2d_2a = _ConvNorm(a, b, 3, 1, 0)
        self.conv2d_2b = _ConvNorm(b, c, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = _ConvNorm(c, d, 1)
        self.conv2d_4a = _ConvNorm(d, stem, 3, 1, 0)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = Mixed(stem, mixed_5b, [nn.AvgPool2d(3, 1, "same"), _ConvNorm(stem, pooled, 1)])
        channels = _width(mixed_5b) + pooled
        self.repeat = nn.SequentialCell([Residual(channels, block_35, 0.17) for _ in range(repeats[0])])
        self.mixed_6a = Mixed(channels, mixed_6a, [nn.MaxPool2d(3, 2)])
        channels += _width(mixed_6a)
        self.repeat_1 = nn.SequentialCell([Residual(channels, block_17, 0.10) for _ in range(repeats[1])])
        self.mixed_7a = Mixed(channels, mixed_7a, [nn.MaxPool2d(3, 2)])
        channels += _width(mixed_7a)
        self.repeat_2 = nn.SequentialCell([Residual(channels, block_8, 0.20) for _ in range(repeats[2])])
        self.block8 = Residual(channels, block_8, 1.0, last=True)
        self.conv2d_7b = _ConvNorm(channels, self.num_features, 1)

    def parts(self):
        stem = self.conv2d_1a, self.conv2d_2a, self.conv2d_2b, self.conv2d_3b, self.conv2d_4a
        last = self.mixed_7a, self.repeat_2, self.block8
        return [stem, (self.mixed_5b, self.repeat), (self.mixed_6a, self.repeat_1), last]

    def run(self, x, first, last):
        if first == 0:
            x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
            x = self.maxpool_5a(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        if first <= 1 and last > 1:
            x = self.repeat(self.mixed_5b(x))
        if first <= 2 and last > 2:
            x = self.repeat_1(self.mixed_6a(x))
        if first <= 3 and last > 3:
            x = self.block8(self.repeat_2(self.mixed_7a(x)))
        if first <= self.num_stages < last:
            x = self.conv2d_7b(x)
        return x

    def final_norm(self):
        return self.conv2d_7b.bn
