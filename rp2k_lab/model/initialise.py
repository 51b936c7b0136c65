"""Initial weights as a pure function of seed and parameter name."""

import zlib

import numpy as np
from mindspore import Tensor, nn


def initialise(net: nn.Cell, seed: int) -> None:
    """Draw every weight of `net` in place.

    Convolutions: normal with variance 2 / fan-out (He et al., ICCV 2015); dense layers: uniform within
    ±1 / sqrt(fan-in), PyTorch's default; norms: scale 1, shift 0, but scale 0 in the last norm of each residual
    branch, so that a block starts as the identity (Goyal et al., arXiv 1706.02677, section 5.1; timm's default).

    Drawn by NumPy from (seed, name) and not by the framework, whose global generator would make the second run of a
    process, or a network with one more layer, start from other weights.
    """
    for name, cell in net.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            groups, (out, _, height, width) = cell.group, cell.weight.shape
            std = np.sqrt(2.0 / (out * height * width / groups))
            _set(cell.weight, _generator(seed, f"{name}.weight").normal(0.0, std, cell.weight.shape))
            if cell.has_bias:
                _set(cell.bias, np.zeros(cell.bias.shape))
        elif isinstance(cell, nn.Dense):
            bound = 1.0 / np.sqrt(cell.weight.shape[1])
            _set(cell.weight, _generator(seed, f"{name}.weight").uniform(-bound, bound, cell.weight.shape))
            _set(cell.bias, np.zeros(cell.bias.shape))
        last_norm = getattr(cell, "bn3", None) or getattr(cell, "bn2", None)
        if last_norm is not None:
            _set(last_norm.gamma, np.zeros(last_norm.gamma.shape))


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _set(parameter, values: np.ndarray) -> None:
    parameter.set_data(Tensor(values.astype(np.float32)))
