"""EfficientNet-B0 and -Lite0 from one builder; parameter names follow timm's (`blocks.1.0.conv_pw`)."""

import math
from collections.abc import Callable

from mindspore import nn, ops

from rp2k_lab.model.attention import SqueezeExcitation
from rp2k_lab.model.backbone import Backbone
from rp2k_lab.model.dropout import drop_path
from rp2k_lab.model.layers import SiLU, batch_norm, conv, norm_relu
from rp2k_lab.model.scaling import scaled_to_eights

# Per stage: blocks, kernel, stride of the first block, expansion, channels (Tan & Le, arXiv 1905.11946, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _NormAct(nn.Cell):
    """A batch norm, given in the call, and an activation.

    Args:
        activation: class, `nn.ReLU6` or another one.
    """

    def __init__(self, activation: type[nn.Cell]):
        super().__init__()
        self.is_relu6, self.activation = activation is nn.ReLU6, activation()

    def construct(self, norm, x):
        return norm_relu(norm, x, ceiling=6.0) if self.is_relu6 else self.activation(norm(x))


class MobileBlock(nn.Cell):
    """Inverted residual: [1×1 expansion] → depthwise → [squeeze-and-excitation] → 1×1 (arXiv 1801.04381, section 3.3).

    Args:
        expansion: at 1 there is no first convolution; the names of the others are timm's for that case.
        attention: called with (expanded channels, reduced channels, activation), or None.
        activation: class of the non-linearity.
        norm: called with the channels, returns a batch norm.
        padding: see `layers.conv`.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int,
        expansion: int,
        attention: Callable[[int, int, type[nn.Cell]], nn.Cell] | None,
        activation: type[nn.Cell],
        norm: Callable[[int], nn.Cell],
        padding: str | None,
        drop: nn.Cell,
    ):
        super().__init__()
        middle = channels * expansion
        self.has_expansion, self.has_skip = expansion != 1, stride == 1 and channels == out
        depthwise = conv(middle, middle, kernel, stride, groups=middle, padding=padding)
        if self.has_expansion:
            self.conv_pw, self.bn1 = conv(channels, middle, 1), norm(middle)
            self.conv_dw, self.bn2 = depthwise, norm(middle)
            self.conv_pwl, self.bn3 = conv(middle, out, 1), norm(out)
        else:
            self.conv_dw, self.bn1 = depthwise, norm(middle)
            self.conv_pw, self.bn2 = conv(middle, out, 1), norm(out)
        self.se = attention(middle, channels // 4, activation) if attention else nn.Identity()
        self.act = _NormAct(activation)
        self.drop_path = drop

    def construct(self, x):
        if self.has_expansion:
            y = self.act(self.bn1, self.conv_pw(x))
            y = self.se(self.act(self.bn2, self.conv_dw(y)))
            y = self.bn3(self.conv_pwl(y))
        else:
            y = self.se(self.act(self.bn1, self.conv_dw(x)))
            y = self.bn2(self.conv_pw(y))
        return ops.add(self.drop_path(y), x) if self.has_skip else y


class EfficientNet(Backbone):
    """Normalized float32 images (batch, 3, height, width) to features (batch, channels, height / 32, width / 32).

    Tan & Le, ICML 2019, arXiv 1905.11946, table 1; 1280 channels unless multiplied.

    Args:
        lite: EfficientNet-Lite (the TensorFlow authors' variant for phones): no attention, ReLU6 for SiLU,
            TensorFlow's "same" padding and batch norm epsilon 1e-3, which its weights were trained with.
        drop_path_rate: stochastic depth; block i of n drops at rate · i / n.
        width_multiplier: factor for all channels, rounded to multiples of 8; Lite's stem and features stay.
        depth_multiplier: factor for every stage's blocks, rounded up; Lite's first and last stage stay.  Both follow
            the authors' code (section 3.3 of the paper).
    """

    num_stages = 1 + len(STAGES)
    smallest_input = 32
    input_multiple = 1

    def __init__(
        self,
        lite: bool = False,
        drop_path_rate: float = 0.0,
        width_multiplier: float = 1.0,
        depth_multiplier: float = 1.0,
    ):
        super().__init__()
        eps, padding = (1e-3, "same") if lite else (1e-5, None)
        activation, attention = (nn.ReLU6, None) if lite else (SiLU, SqueezeExcitation)

        def norm(channels):
            return batch_norm(channels, eps)

        fixed = (0, len(STAGES) - 1) if lite else ()
        counts = [n if i in fixed else math.ceil(n * depth_multiplier) for i, (n, *_) in enumerate(STAGES)]
        channels, self.num_features = (n if lite else scaled_to_eights(n, width_multiplier) for n in (32, 1280))
        self.conv_stem = conv(3, channels, 3, stride=2, padding=padding)
        self.bn1 = norm(channels)
        stages, number, total = [], 0, sum(counts)
        for count, (_, kernel, stride, expansion, full) in zip(counts, STAGES, strict=True):
            cells, out = [], scaled_to_eights(full, width_multiplier)
            for i in range(count):
                shape = (channels, out, kernel, stride if i == 0 else 1, expansion)
                drop = drop_path(drop_path_rate * number / total)
                cells.append(MobileBlock(*shape, attention, activation, norm, padding, drop))
                channels, number = out, number + 1
            stages.append(nn.SequentialCell(cells))
        self.blocks = nn.SequentialCell(stages)
        self.conv_head = conv(channels, self.num_features, 1)
        self.bn2 = norm(self.num_features)
        self.act = _NormAct(activation)

    def parts(self):
        return [(self.conv_stem, self.bn1), *((stage,) for stage in self.blocks.cell_list)]

    def run(self, x, first, last):
        if first == 0:
            x = self.act(self.bn1, self.conv_stem(x))
        for stage in self.blocks.cell_list[max(first - 1, 0) : last - 1]:
            x = stage(x)
        if first <= self.num_stages < last:
            x = self.act(self.bn2, self.conv_head(x))
        return x

    def num_blocks(self) -> list[int]:
        """Return the number of blocks of each stage behind the stem."""
        return [len(stage) for stage in self.blocks.cell_list]

    def final_norm(self):
        return self.bn2
