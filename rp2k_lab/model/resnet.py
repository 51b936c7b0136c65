"""The ResNet family from one builder: depth × attention × cardinality × base width × last-stage planes × multipliers.

Parameter names are timm's (`layer1.0.conv1`, `layer1.0.se.fc1`, `layer1.0.downsample.1`), so weights map by name.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from mindspore import Tensor, nn

from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.dropout import drop_path
from rp2k_lab.model.layers import MaxPool, add_relu, batch_norm, conv, norm_relu
from rp2k_lab.model.scaling import scaled

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
PLANES = (64, 128, 256, 512)

Attention = Callable[[int], nn.Cell]


class _Block(nn.Cell):
    """What the blocks share: attention, stochastic depth, the residual and the last ReLU.

    Args:
        attention: see `ResNet`, or None.
    """

    def __init__(self, channels: int, attention: Attention | None, downsample: nn.Cell, drop: nn.Cell):
        super().__init__()
        self.se = attention(channels) if attention else nn.Identity()
        self.drop_path = drop
        self.downsample = downsample
        self.is_direct = attention is None and isinstance(drop, nn.Identity)

    def finish(self, norm: nn.BatchNorm2d, y: Tensor, x: Tensor) -> Tensor:
        """Return the block's output from its input x and its last convolution's output y."""
        if self.is_direct:
            return norm_relu(norm, y, self.downsample(x))
        return add_relu(self.drop_path(self.se(norm(y))), self.downsample(x))


class BasicBlock(_Block):
    """Two 3×3 convolutions and a residual (He et al., CVPR 2016, arXiv 1512.03385, figure 5 left)."""

    expansion = 1

    def __init__(
        self,
        channels: int,
        planes: int,
        stride: int,
        attention: Attention | None,
        downsample: nn.Cell,
        drop: nn.Cell,
    ):
        super().__init__(planes, attention, downsample, drop)
        self.conv1 = conv(channels, planes, 3, stride)
        self.bn1 = batch_norm(planes)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = batch_norm(planes)

    def construct(self, x):
        y = norm_relu(self.bn1, self.conv1(x))
        return self.finish(self.bn2, self.conv2(y), x)

    def last_norm(self):
        return self.bn2


class Bottleneck(_Block):
    """1×1, 3×3 (stride and groups here, as in PyTorch's ResNet), 1×1 and a residual.

    He et al., arXiv 1512.03385, figure 5 right; with groups, Xie et al., CVPR 2017, arXiv 1611.05431, figure 3c.

    Args:
        width, groups: channels and groups of the 3×3 convolution.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        planes: int,
        stride: int,
        width: int,
        groups: int,
        attention: Attention | None,
        downsample: nn.Cell,
        drop: nn.Cell,
    ):
        super().__init__(planes * self.expansion, attention, downsample, drop)
        self.conv1 = conv(channels, width, 1)
        self.bn1 = batch_norm(width)
        self.conv2 = conv(width, width, 3, stride, groups=groups)
        self.bn2 = batch_norm(width)
        self.conv3 = conv(width, planes * self.expansion, 1)
        self.bn3 = batch_norm(planes * self.expansion)

    def construct(self, x):
        y = norm_relu(self.bn1, self.conv1(x))
        y = norm_relu(self.bn2, self.conv2(y))
        return self.finish(self.bn3, self.conv3(y), x)

    def last_norm(self):
        return self.bn3


class ResNet(Backbone):
    """Normalized float32 images (batch, 3, height, width) to features (batch, channels, height / 32, width / 32).

    Args:
        depth: 18 (basic blocks), 50 or 101 (bottlenecks).
        attention: called with a block's output channels, returns the cell applied before the residual is added.
        stage_attention: the same for the outputs of the first three stages (BAM).
        cardinality, base_width: groups of the 3×3 convolution and their width at 64 planes: 1 and 64 for ResNet,
            32 and 4 for ResNeXt 32×4d, 7 and 4 for the contest entry.
        final_width: channels of the features, before `width_multiplier`.  The last stage's planes are final_width /
            expansion: 4096 doubles the 512 planes of a bottleneck network, the contest entry's "wider" variant
            (published.md, table 4).
        drop_path_rate: stochastic depth of the last block, growing linearly from 0 in the first.
        width_multiplier: factor for all channels, stem to features (MobileNet, arXiv 1704.04861, section 3.3).
            With a cardinality above 1, the 3×3 convolutions have fewer groups of the same width: 32×4d is 8×4d at
            0.25.
        depth_multiplier: factor for every stage's blocks (EfficientNet, arXiv 1905.11946, section 3.3).  Both round to
            the nearest integer (a half up), at least 1.

    Raises:
        ValueError: unknown depth, a final_width not divisible by the block's expansion, or grouped convolutions in a
            network of basic blocks.
    """

    num_stages = 5
    smallest_input = 32
    input_multiple = 1

    def __init__(
        self,
        depth: int,
        attention: Attention | None = None,
        stage_attention: Attention | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        final_width: int | None = None,
        drop_path_rate: float = 0.0,
        width_multiplier: float = 1.0,
        depth_multiplier: float = 1.0,
    ):
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth {depth}: no such ResNet\nuse one of {', '.join(map(str, STAGES))}")
        block = BasicBlock if depth < 50 else Bottleneck
        if block is BasicBlock and (cardinality, base_width) != (1, 64):
            raise ValueError("cardinality and base_width need a bottleneck network\nuse a depth of 50 or more")
        if final_width is None:
            final_width = PLANES[-1] * block.expansion
        if final_width < 1 or final_width % block.expansion:
            raise ValueError(f"model.final_width={final_width}: depth {depth} needs a multiple of {block.expansion}")
        channels, counts = scaled(64, width_multiplier), [scaled(n, depth_multiplier) for n in STAGES[depth]]
        self.conv1 = conv(3, channels, 7, stride=2)
        self.bn1 = batch_norm(channels)
        self.maxpool = MaxPool()
        full_planes = (*PLANES[:-1], final_width // block.expansion)
        for i, (blocks, full) in enumerate(zip(counts, full_planes, strict=True)):
            first = sum(counts[:i])
            drops = [drop_path(drop_path_rate * n / (sum(counts) - 1)) for n in range(first, first + blocks)]
            inner = () if block is BasicBlock else _groups(full, cardinality, base_width, width_multiplier)
            planes = scaled(full, width_multiplier)
            stage = _stage(block, channels, planes, 1 if i == 0 else 2, (*inner, attention), drops)
            channels = planes * block.expansion
            setattr(self, f"layer{i + 1}", stage)
            if i < 3:
                setattr(self, f"bam{i + 1}", stage_attention(channels) if stage_attention else nn.Identity())
        self.num_features = channels

    def parts(self):
        blocks = [(self.layer1, self.bam1), (self.layer2, self.bam2), (self.layer3, self.bam3), (self.layer4,)]
        return [(self.conv1, self.bn1), *blocks]

    def run(self, x, first, last):
        if first == 0:
            x = self.maxpool(norm_relu(self.bn1, self.conv1(x)))
        if first <= 1 and last > 1:
            x = self.bam1(self.layer1(x))
        if first <= 2 and last > 2:
            x = self.bam2(self.layer2(x))
        if first <= 3 and last > 3:
            x = self.bam3(self.layer3(x))
        if first <= 4 and last > 4:
            x = self.layer4(x)
        return x

    def final_norm(self):
        return self.layer4[-1].last_norm()


def _groups(planes: int, cardinality: int, base_width: int, multiplier: float) -> tuple[int, int]:
    """Return (channels, groups) of a bottleneck's 3×3 convolution; `planes` are the stage's before the multiplier."""
    if planes * base_width % 64:
        multiple = 64 // math.gcd(base_width, 64) * Bottleneck.expansion
        raise ValueError(
            f"model.final_width={planes * Bottleneck.expansion}: this network needs a multiple of {multiple}"
        )
    width = planes * base_width // 64
    if cardinality == 1:
        return scaled(width, multiplier), 1
    groups = scaled(cardinality, multiplier)
    return width * groups, groups


def _stage(
    block: type[BasicBlock | Bottleneck],
    channels: int,
    planes: int,
    stride: int,
    options: tuple[Any, ...],
    drops: Sequence[nn.Cell],
) -> nn.SequentialCell:
    """Return a stage with a block for each of `drops`: only the first changes side and channels."""
    cells = []
    build = cast(Callable[..., nn.Cell], block)  # the two differ in their options
    for i, drop in enumerate(drops):
        block_stride, width = (stride, planes * block.expansion) if i == 0 else (1, channels)
        if block_stride != 1 or channels != width:
            downsample = nn.SequentialCell([conv(channels, width, 1, block_stride), batch_norm(width)])
        else:
            downsample = nn.Identity()
        cells.append(build(channels, planes, block_stride, *options, downsample, drop))
        channels = width
    return nn.SequentialCell(cells)
