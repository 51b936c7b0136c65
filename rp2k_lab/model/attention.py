"""Attention modules: float32 (batch, channels, height, width) to the same shape.

A backbone takes one as a callable whose first argument is the channel count.
"""

from mindspore import Tensor, nn, ops

from rp2k_lab.model import custom_operators
from rp2k_lab.model.layers import (
    ConvNorm,
    batch_norm,
    channel_max,
    channel_mean,
    conv,
    global_max,
    global_mean,
    norm_relu,
    scale_channels,
    scale_positions,
)


class SqueezeExcitation(nn.Cell):
    """Channel attention from globally pooled features (Hu et al., CVPR 2018, arXiv 1709.01507, section 3).

    As in timm, both layers are 1×1 convolutions with bias, and the reduced width is rounded to a multiple of 8.

    Args:
        reduced: reduced width (channels); None: channels / 16.
        activation: between the two layers.
    """

    def __init__(self, channels: int, reduced: int | None = None, activation: type[nn.Cell] = nn.ReLU):
        super().__init__()
        reduced = reduced or max(8, int(channels / 16 + 4) // 8 * 8)
        self.fc1 = conv(channels, reduced, 1, bias=True)
        self.fc2 = conv(reduced, channels, 1, bias=True)
        self.act = activation()
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return scale_channels(x, ops.sigmoid(self.dense(self.fc2, self.act(self.dense(self.fc1, global_mean(x))))))
        squeezed = global_mean(x).reshape(x.shape[0], x.shape[1], 1, 1)
        return scale_channels(x, ops.sigmoid(self.fc2(self.act(self.fc1(squeezed)))))

    def dense(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """Return a 1×1 convolution of one position, (batch, channels_in) to (batch, channels_out), as a product."""
        weight, bias = layer.weight, layer.bias
        return custom_operators.add_bias(self.matmul(x, weight.reshape(weight.shape[:2])), bias)


class BAM(nn.Cell):
    """Bottleneck attention between stages (Park et al., BMVC 2018, arXiv 1807.06514, section 3).

    x · (1 + sigmoid(channel · spatial)).  The paper adds the two (equation 2).  This cell multiplies them, as the
    reference code does, which the published counts and weights come from.  The channel gate pools over the whole map;
    the reference pools over squares of the map's height, which is equal on square maps and fails on others.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        reduced = max(1, channels // reduction)
        self.channel_fc1 = nn.Dense(channels, reduced)
        self.channel_bn = nn.BatchNorm1d(reduced, eps=1e-5, momentum=0.9)
        self.channel_fc2 = nn.Dense(reduced, channels)
        self.spatial_reduce = conv(channels, reduced, 1, bias=True)
        self.spatial_bn0 = batch_norm(reduced)
        self.spatial_conv1 = conv(reduced, reduced, 3, bias=True, dilation=dilation)
        self.spatial_bn1 = batch_norm(reduced)
        self.spatial_conv2 = conv(reduced, reduced, 3, bias=True, dilation=dilation)
        self.spatial_bn2 = batch_norm(reduced)
        self.spatial_final = conv(reduced, 1, 1, bias=True)
        self.relu = nn.ReLU()

    def construct(self, x):
        channel = self.channel_fc2(self.relu(self.channel_bn(self.channel_fc1(global_mean(x)))))
        spatial = norm_relu(self.spatial_bn0, self.spatial_reduce(x))
        spatial = norm_relu(self.spatial_bn1, self.spatial_conv1(spatial))
        spatial = self.spatial_final(norm_relu(self.spatial_bn2, self.spatial_conv2(spatial)))
        batch, channels, height, width = x.shape
        product = ops.matmul(channel.reshape(batch, channels, 1), spatial.reshape(batch, 1, height * width))
        return x * (ops.sigmoid(product).reshape(x.shape) + 1.0)


class CBAM(nn.Cell):
    """Channel, then spatial attention in every block (Woo et al., ECCV 2018, arXiv 1807.06521, section 3).

    The channel gate adds the mean and the maximum after one shared two-layer perceptron.  The spatial gate is a 7×7
    convolution over the channels' maximum and mean.  Its batch norm is in the reference code (PyTorch momentum 0.01)
    but not in the paper.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        reduced = max(1, channels // reduction)
        self.fc1 = nn.Dense(channels, reduced)
        self.fc2 = nn.Dense(reduced, channels)
        self.spatial = ConvNorm(2, 1, 7, momentum=0.99, relu=False)
        self.relu = nn.ReLU()

    def construct(self, x):
        x = scale_channels(x, ops.sigmoid(self.gate(global_mean(x)) + self.gate(global_max(x))))
        pooled = ops.concat((channel_max(x), channel_mean(x)), 1)
        return scale_positions(x, ops.sigmoid(self.spatial(pooled)))

    def gate(self, pooled: Tensor) -> Tensor:
        """Return the perceptron's output: (batch, channels) to (batch, channels)."""
        return self.fc2(self.relu(self.fc1(pooled)))
