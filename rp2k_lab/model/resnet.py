"""The ResNet family from one builder: depth × attention × cardinality × base width × last-stage planes.

Parameter names follow timm's (`layer1.0.conv1`, `layer1.0.se.fc1`, `layer1.0.downsample.1`), so that weights can be
mapped by name.
"""

import math
from collections.abc import Callable

from mindspore import nn, ops

from rp2k_lab.model.layers import batch_norm, conv

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PLANES = (64, 128, 256, 512)

Attention = Callable[[int], nn.Cell]


class BasicBlock(nn.Cell):
    """Two 3×3 convolutions and a residual (He et al., CVPR 2016, arXiv 1512.03385, figure 5 left)."""

    expansion = 1

    def __init__(self, channels, planes, stride, cardinality, base_width, attention, downsample):
        super().__init__()
        if (cardinality, base_width) != (1, 64):
            raise ValueError("cardinality and base_width need a bottleneck network (depth 50 or more)")
        self.conv1 = conv(channels, planes, 3, stride)
        self.bn1 = batch_norm(planes)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = batch_norm(planes)
        self.se = attention(planes) if attention else nn.Identity()
        self.downsample = downsample
        self.relu = nn.ReLU()

    def construct(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.relu(ops.add(y, self.downsample(x)))


class Bottleneck(nn.Cell):
    """1×1, 3×3 (stride and groups here, as in PyTorch's ResNet), 1×1 and a residual.

    He et al., arXiv 1512.03385, figure 5 right; with cardinality, Xie et al., CVPR 2017, arXiv 1611.05431, figure 3c.
    """

    expansion = 4

    def __init__(self, channels, planes, stride, cardinality, base_width, attention, downsample):
        super().__init__()
        if planes * base_width % 64:
            multiple = 64 // math.gcd(base_width, 64) * self.expansion
            raise ValueError(
                f"model.final_width={planes * self.expansion}: this network needs a multiple of {multiple}"
            )
        width = planes * base_width // 64 * cardinality
        self.conv1 = conv(channels, width, 1)
        self.bn1 = batch_norm(width)
        self.conv2 = conv(width, width, 3, stride, groups=cardinality)
        self.bn2 = batch_norm(width)
        self.conv3 = conv(width, planes * self.expansion, 1)
        self.bn3 = batch_norm(planes * self.expansion)
        self.se = attention(planes * self.expansion) if attention else nn.Identity()
        self.downsample = downsample
        self.relu = nn.ReLU()

    def construct(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.se(self.bn3(self.conv3(y)))
        return self.relu(ops.add(y, self.downsample(x)))


class ResNet(nn.Cell):
    """Maps normalised float32 images (batch, 3, height, width), sides of at least 32, to logits (batch, num_classes).

    Args:
        num_classes: number of logits.
        depth: 18 (basic blocks), 50 or 101 (bottlenecks).
        attention: called with a block's output channels, gives the cell applied before the residual is added.
        cardinality, base_width: groups of the 3×3 convolution and their width at 64 planes; 1 and 64 are ResNet,
            32 and 4 are ResNeXt 32×4d.
        final_width: features before the classifier.  The last stage's planes are final_width / expansion, so that
            4096 doubles the usual 512 planes of a bottleneck network: the contest entry's "wider" variant
            (published.md, table 4).

    Raises:
        ValueError: an unknown depth, a final_width that the block's expansion does not divide, or grouped
            convolutions in a network of basic blocks.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int,
        attention: Attention | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        final_width: int | None = None,
    ):
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth {depth}: a ResNet has one of {', '.join(map(str, STAGES))}")
        block = BasicBlock if depth < 50 else Bottleneck
        final_width = final_width or PLANES[-1] * block.expansion
        if final_width % block.expansion:
            raise ValueError(f"model.final_width={final_width}: depth {depth} needs a multiple of {block.expansion}")
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = batch_norm(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        channels = 64
        planes = (*PLANES[:-1], final_width // block.expansion)
        for i, (blocks, stage_planes) in enumerate(zip(STAGES[depth], planes, strict=True)):
            options = (cardinality, base_width, attention)
            stage = _stage(block, channels, stage_planes, blocks, 1 if i == 0 else 2, options)
            setattr(self, f"layer{i + 1}", stage)
            channels = stage_planes * block.expansion
        self.fc = nn.Dense(channels, num_classes)

    def construct(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def _stage(block, channels, planes, blocks, stride, options) -> nn.SequentialCell:
    """One stage: the first block changes side and channels, the others keep both."""
    cells = []
    for i in range(blocks):
        stride_here, width = (stride, planes * block.expansion) if i == 0 else (1, channels)
        if stride_here != 1 or channels != width:
            downsample = nn.SequentialCell([conv(channels, width, 1, stride_here), batch_norm(width)])
        else:
            downsample = nn.Identity()
        cells.append(block(channels, planes, stride_here, *options, downsample))
        channels = width
    return nn.SequentialCell(cells)
