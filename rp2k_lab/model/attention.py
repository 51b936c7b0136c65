"""Attention modules.  Each is passed to a backbone as a callable whose first argument is the channel count."""

from mindspore import nn, ops

from rp2k_lab.model.layers import conv


class SqueezeExcitation(nn.Cell):
    """Channel attention from globally pooled features (Hu et al., CVPR 2018, arXiv 1709.01507, section 3).

    Maps float32 (batch, channels, height, width) to the same shape.  As in timm, both layers are 1×1 convolutions
    with bias and the reduced width is rounded to a multiple of 8.

    The squeeze is a matrix product with a constant vector and the gate an outer product: the same mathematics as a
    mean and a broadcast product, in a form whose forward and backward passes are several times faster on CPU.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        reduced = _round_to_multiple(channels / reduction, 8)
        self.fc1 = conv(channels, reduced, 1, bias=True)
        self.fc2 = conv(reduced, channels, 1, bias=True)
        self.relu = nn.ReLU()

    def construct(self, x):
        batch, channels, height, width = x.shape
        area = height * width
        mean = ops.matmul(x.reshape(batch * channels, area), ops.full((area, 1), 1.0 / area, dtype=x.dtype))
        gate = ops.sigmoid(self.fc2(self.relu(self.fc1(mean.reshape(batch, channels, 1, 1)))))
        spread = ops.matmul(gate.reshape(batch * channels, 1), ops.ones((1, area), dtype=x.dtype))
        return x * spread.reshape(x.shape)


def _round_to_multiple(width: float, divisor: int) -> int:
    """The nearest multiple of divisor, at least one and at most 10 % below width (MobileNet's rule, as in timm)."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor
