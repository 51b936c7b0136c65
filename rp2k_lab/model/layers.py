"""Layers that every backbone shares, with the field's names for their arguments."""

from mindspore import nn


def conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False):
    """A 2-d convolution that keeps the side at stride 1 (symmetric padding of kernel // 2, as in PyTorch)."""
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride,
        pad_mode="pad",
        padding=kernel // 2,
        group=groups,
        has_bias=bias,
    )


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with PyTorch's statistics: MindSpore's momentum 0.9 keeps 90 % of the running value."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.9)
