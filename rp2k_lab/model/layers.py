"""Layers that the backbones share."""

import math

import numpy as np
from mindspore import Parameter, Tensor, float32, nn, ops

from rp2k_lab.model import custom_operators


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dilation: int = 1,
    padding: str | int | None = None,
) -> nn.Conv2d:
    """Return a 2-d convolution.

    Args:
        kernel: side, or (height, width), pixels.
        padding: None: half the kernel on each side as in PyTorch, stride 1 keeps the image's side; "same": TensorFlow's
            rule, an odd remainder goes to the lower right; 0: no padding.
    """
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    common = {"dilation": dilation, "group": groups, "has_bias": bias}
    if kernel[0] != kernel[1] and padding is None:
        padding = "same"  # equal at stride 1; MindSpore 2.10's ONNX exporter mixes up the sides of an uneven padding
    if padding in ("same", 0):
        return nn.Conv2d(channels_in, channels_out, kernel, stride, pad_mode="same" if padding else "valid", **common)
    side = dilation * (kernel[0] // 2)
    return nn.Conv2d(channels_in, channels_out, kernel, stride, pad_mode="pad", padding=side, **common)


def batch_norm(channels: int, eps: float = 1e-5, momentum: float = 0.9) -> nn.BatchNorm2d:
    """Return a batch norm with PyTorch's statistics: MindSpore's momentum 0.9 keeps 90 % of the running value."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=momentum)


def norm_relu(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None = None, ceiling: float = math.inf) -> Tensor:
    """Return min(max(norm(x) + residual, 0), ceiling), in training as one operator on CPU.

    Args:
        x, residual: (batch, channels, height, width); no residual is 0.
    """
    # The dtype comes first: under O2 the norm is wrapped by a cell of MindSpore's that has no `use_batch_statistics`.
    if custom_operators.in_use(x.dtype) and norm.training and norm.use_batch_statistics is None:
        return custom_operators.norm_relu(norm, x, residual, ceiling)
    y = norm(x)
    if residual is not None:
        y = ops.add(y, residual)
    return ops.relu(y) if ceiling == math.inf else ops.relu6(y)


def add_relu(a: Tensor, b: Tensor) -> Tensor:
    """Return max(a + b, 0) of tensors of one shape."""
    if custom_operators.in_use(a.dtype):
        return custom_operators.add_relu(a, b)
    return ops.relu(ops.add(a, b))


class ConvNorm(nn.Cell):
    """Convolution `conv`, batch norm `bn` (timm's names) and ReLU, unless left out."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: str | int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.9,
        relu: bool = True,
    ):
        super().__init__()
        self.conv = conv(channels_in, channels_out, kernel, stride, padding=padding)
        self.bn = batch_norm(channels_out, eps, momentum)
        self.has_relu = relu

    def construct(self, x):
        x = self.conv(x)
        return norm_relu(self.bn, x) if self.has_relu else self.bn(x)


class MaxPool(nn.Cell):
    """PyTorch's MaxPool2d(3, stride=2, padding=1) for non-negative values, which zero padding does not change.

    MindSpore 2.10 pads a pooling by MaxPool3DWithArgmax, which is slower and has no counterpart in ONNX; `nn.Pad` takes
    twice the time of concatenations.
    """

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2)

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return custom_operators.max_pool(x)
        batch, channels, height, width = x.shape
        row = ops.zeros((batch, channels, 1, width), x.dtype)
        column = ops.zeros((batch, channels, height + 2, 1), x.dtype)
        return self.pool(ops.concat((column, ops.concat((row, x, row), 2), column), 3))


class SiLU(nn.Cell):
    """x · sigmoid(x) as two operators: less than half the time of `nn.SiLU` on CPU, forward and backward."""

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return custom_operators.silu(x)
        return x * ops.sigmoid(x)


class GELU(nn.Cell):
    """x · Φ(x), exact (Hendrycks & Gimpel, arXiv 1606.08415); its backward pass is faster than that of `nn.GELU`."""

    def construct(self, x):
        return x * (ops.erf(x * 0.7071067811865476) * 0.5 + 0.5)


class LayerNorm(nn.LayerNorm):
    """Normalization of the last axis (Ba et al., arXiv 1607.06450); float32 (…, channels) to the same shape.

    Means are matrix products, see below: half the time of `nn.LayerNorm` on CPU, forward and backward.  A subclass of
    it, because mixed precision keeps those in float32; the squares overflow float16.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__((channels,), epsilon=eps)
        self.channels, self.eps = channels, eps

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return custom_operators.layer_norm(x, self.gamma, self.beta, Tensor(self.eps, float32))
        rows = x.reshape(-1, self.channels)
        mean = ops.full((self.channels, 1), 1.0 / self.channels, dtype=x.dtype)
        centered = rows - ops.matmul(ops.matmul(rows, mean), ops.ones((1, self.channels), dtype=x.dtype))
        deviation = ops.sqrt(ops.matmul(centered * centered, mean) + self.eps)
        scale = ops.div(ops.ones_like(deviation), deviation)  # MindSpore 2.10's ONNX exporter has no Rsqrt
        return (centered * ops.matmul(scale, self.gamma.reshape(1, -1)) + self.beta).reshape(x.shape)


class Dense(nn.Dense):
    """A dense layer on the last axis whose bias, above all its gradient, takes less time on CPU than `nn.Dense`'s.

    The input is (…, channels_in), the output (…, channels_out).
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out)

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return custom_operators.add_bias(self.product(x), self.bias)
        return super().construct(x)

    def product(self, x: Tensor) -> Tensor:
        """Return the output without the bias."""
        return self.matmul(x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], -1)


class Mlp(nn.Cell):
    """Two dense layers with a GELU between them; tokens (…, channels) to the same shape."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.fc1 = Dense(channels, hidden)
        self.fc2 = Dense(hidden, channels)
        self.act = GELU()

    def construct(self, x):
        if custom_operators.in_use(x.dtype):
            return self.fc2(custom_operators.bias_gelu(self.fc1.product(x), self.fc1.bias))
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Cell):
    """A learned factor of each channel of a residual branch (Touvron et al., ICCV 2021, arXiv 2103.17239, section 2).

    The last axis has the channels.  PyTorch's files name the factors gamma, which here is the scale of a norm.
    """

    def __init__(self, channels: int, initial: float):
        super().__init__()
        self.scale = Parameter(Tensor(np.full(channels, initial, np.float32)))

    def construct(self, x):
        return x * self.scale


# On CPU, reductions over several axes and broadcast products are slow.  Matrix products with a constant vector take a
# fifth to a half of their time, forward and backward.


def global_mean(x: Tensor) -> Tensor:
    """Return the mean over positions: (batch, channels, height, width) to (batch, channels)."""
    if custom_operators.in_use(x.dtype):
        return custom_operators.map_means(x)
    batch, channels, height, width = x.shape
    area = height * width
    weights = ops.full((area, 1), 1.0 / area, dtype=x.dtype)
    return ops.matmul(x.reshape(batch * channels, area), weights).reshape(batch, channels)


def global_max(x: Tensor) -> Tensor:
    """Return the maximum over positions: (batch, channels, height, width) to (batch, channels)."""
    batch, channels, height, width = x.shape
    return x.reshape(batch * channels, height * width).max(axis=1).reshape(batch, channels)


def channel_mean(x: Tensor) -> Tensor:
    """Return the mean over channels: (batch, channels, height, width) to (batch, 1, height, width)."""
    batch, channels, height, width = x.shape
    weights = ops.full((1, channels), 1.0 / channels, dtype=x.dtype)
    return ops.matmul(weights, x.reshape(batch, channels, height * width)).reshape(batch, 1, height, width)


def channel_max(x: Tensor) -> Tensor:
    """Return the maximum over channels: (batch, channels, height, width) to (batch, 1, height, width)."""
    return ops.max(x, 1, True)[0]


def scale_channels(x: Tensor, gate: Tensor) -> Tensor:
    """Return x (batch, channels, height, width) times gate (batch, channels)."""
    if custom_operators.in_use(x.dtype):
        return custom_operators.scale_maps(x, gate.reshape(x.shape[:2]))
    batch, channels, height, width = x.shape
    ones = ops.ones((1, height * width), dtype=x.dtype)
    return x * ops.matmul(gate.reshape(batch * channels, 1), ones).reshape(x.shape)


def scale_positions(x: Tensor, gate: Tensor) -> Tensor:
    """Return x (batch, channels, height, width) times gate (batch, 1, height, width)."""
    batch, channels, height, width = x.shape
    ones = ops.ones((1, channels, 1), dtype=x.dtype)
    return x * ops.matmul(ones, gate.reshape(batch, 1, height * width)).reshape(x.shape)
