"""Layers in plain NumPy and float64, for tests of networks."""

import numpy as np
from mindspore import Tensor


def conv(x, weight, bias=None, stride=1, pads=(0, 0, 0, 0), dilation=1, groups=1):
    """Convolve (batch, channels, height, width) with (out, channels / groups, kernel height, kernel width).

    Args:
        pads: zeros at the top, bottom, left, right (pixels).
    """
    top, bottom, left, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    out, inner, kernel_height, kernel_width = weight.shape
    rows = (x.shape[2] - dilation * (kernel_height - 1) - 1) // stride + 1
    columns = (x.shape[3] - dilation * (kernel_width - 1) - 1) // stride + 1
    result = np.zeros((len(x), out, rows, columns))
    for o in range(out):
        first = o // (out // groups) * inner
        for row in range(rows):
            for column in range(columns):
                ys = row * stride + dilation * np.arange(kernel_height)
                xs = column * stride + dilation * np.arange(kernel_width)
                patch = x[:, first : first + inner][:, :, ys][:, :, :, xs]
                result[:, o, row, column] = (patch * weight[o]).sum((1, 2, 3))
    return result if bias is None else result + bias[:, None, None]


def norm(x, cell):
    """Return the batch norm of (batch, channels, …) with running statistics."""
    values = (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)
    shape = (-1, *(1,) * (x.ndim - 2))
    gamma, beta, mean, variance = (array(value).reshape(shape) for value in values)
    return (x - mean) / np.sqrt(variance + cell.eps) * gamma + beta


def dense(x, cell):
    return x @ array(cell.weight).T + array(cell.bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def array(parameter):
    return parameter.asnumpy().astype(np.float64)


def draw_parameters(cell, seed=0):
    """Draw weights, scales, shifts and running statistics in place; return the cell in evaluation mode."""
    rng = np.random.default_rng(seed)
    for parameter in cell.get_parameters():
        positive = parameter.name.endswith(("gamma", "moving_variance"))
        values = rng.uniform(0.5, 2, parameter.shape) if positive else rng.normal(0, 0.4, parameter.shape)
        parameter.set_data(Tensor(values.astype(np.float32)))
    return cell.set_train(False)
