"""Initial weights as a pure function of seed and parameter name."""

import zlib

import numpy as np
from mindspore import Tensor, nn


def initialize(net: nn.Cell, seed: int) -> None:
    """Draw every weight of `net` in place.

    Convolutions: normal with variance 2 / fan-out (He et al., ICCV 2015); if the backbone has a `conv_std`, with that
    deviation.  Dense layers: uniform within ±1 / sqrt(fan-in), PyTorch's default; if the backbone has a `dense_std`,
    normal with that deviation, and so are tables of positions and class tokens.  Norms: scale 1, shift 0; the last norm
    of a ResNet's residual branch has scale 0, so that a block starts as the identity (Goyal et al., arXiv 1706.02677,
    section 5.1; timm's default).

    NumPy draws from (seed, name).  MindSpore's global generator would give other weights to the second run of a
    process, or to a network with one more layer.
    """
    backbone = getattr(net, "backbone", None)
    dense_std, conv_std = (getattr(backbone, key, 0.0) for key in ("dense_std", "conv_std"))
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            groups, (out, _, height, width) = cell.group, cell.weight.shape
            _normal(cell.weight, seed, conv_std or np.sqrt(2.0 / (out * height * width / groups)))
        elif isinstance(cell, nn.Dense) and dense_std:
            _normal(cell.weight, seed, dense_std)
        elif isinstance(cell, nn.Dense):
            bound = 1.0 / np.sqrt(cell.weight.shape[1])
            _set(cell.weight, _generator(seed, cell.weight).uniform(-bound, bound, cell.weight.shape))
        elif dense_std:
            for table in cell.get_parameters(expand=False):
                if table.ndim > 1:
                    _normal(table, seed, dense_std)
        if isinstance(cell, (nn.Conv2d, nn.Dense)) and cell.has_bias:
            _set(cell.bias, np.zeros(cell.bias.shape))
        if hasattr(cell, "last_norm"):
            gamma = cell.last_norm().gamma
            _set(gamma, np.zeros(gamma.shape))


def _normal(parameter, seed: int, std: float) -> None:
    _set(parameter, _generator(seed, parameter).normal(0.0, std, parameter.shape))


def _generator(seed: int, parameter) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(parameter.name.encode())])


def _set(parameter, values: np.ndarray) -> None:
    parameter.set_data(Tensor(values.astype(np.float32)))
