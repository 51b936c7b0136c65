"""Operators of MindSpore: `python -m tests.native.operators FILE.npz` writes their outputs and gradients."""

import sys
from pathlib import Path

import rp2k_lab  # noqa: F401  # before MindSpore: loads the native library

import mindspore as ms  # isort: skip
import numpy as np
from mindspore import nn


def cells() -> dict[str, tuple[nn.Cell, tuple[int, ...]]]:
    """Return the operators in training mode, each with the shape of its input."""
    padded = {"pad_mode": "pad", "padding": 1}
    frozen = nn.BatchNorm2d(24, use_batch_statistics=False)
    frozen.moving_mean.set_data(ms.Tensor(np.linspace(-1, 1, 24), ms.float32))
    return {
        "dense 3×3 with bias": (nn.Conv2d(24, 40, 3, has_bias=True, **padded), (2, 24, 13, 11)),
        "first layer": (nn.Conv2d(3, 32, 7, 2, pad_mode="pad", padding=3), (2, 3, 64, 64)),
        "same padding": (nn.Conv2d(16, 16, (7, 1), pad_mode="same"), (2, 16, 12, 12)),
        "dilated": (nn.Conv2d(16, 16, 3, dilation=2, pad_mode="same"), (2, 16, 12, 12)),
        "grouped": (nn.Conv2d(64, 64, 3, 2, group=4, **padded), (2, 64, 14, 14)),
        "depthwise": (nn.Conv2d(40, 40, 3, group=40, **padded), (2, 40, 14, 14)),
        "wide depthwise": (nn.Conv2d(40, 40, 5, 2, pad_mode="pad", padding=2, group=40), (2, 40, 14, 14)),
        "pointwise": (nn.Conv2d(32, 64, 1), (2, 32, 14, 14)),
        "pointwise on a small map": (nn.Conv2d(64, 128, 1), (4, 64, 2, 2)),
        "small map of many channels": (nn.Conv2d(256, 256, 3, **padded), (4, 256, 2, 2)),
        "5 MB": (nn.Conv2d(24, 32, 3, **padded), (4, 24, 112, 112)),
        "one dimension": (nn.Conv1d(8, 16, 3, pad_mode="same"), (2, 8, 20)),
        "three dimensions": (nn.Conv3d(8, 16, 3, pad_mode="same"), (2, 8, 5, 6, 7)),
        "float16": (nn.Conv2d(16, 16, 3, **padded).to_float(ms.float16), (2, 16, 9, 9)),
        "transposed": (nn.Conv2dTranspose(16, 8, 3, 2, pad_mode="same"), (2, 16, 6, 6)),
        "batch norm": (nn.BatchNorm2d(24), (4, 24, 9, 7)),
        "batch norm of a large map": (nn.BatchNorm2d(16), (4, 16, 112, 112)),
        "batch norm of one place": (nn.BatchNorm2d(64), (16, 64, 1, 1)),
        "batch norm of running statistics": (frozen, (4, 24, 9, 7)),
        "batch norm without parameters": (nn.BatchNorm2d(24, affine=False), (4, 24, 9, 7)),
        "batch norm of vectors": (nn.BatchNorm1d(24), (8, 24)),
    }


class Everything(nn.Cell):
    """Return the output of a cell, and what the gradients come from: its products with constants, summed."""

    def __init__(self, cell: nn.Cell, factors: np.ndarray):
        super().__init__()
        self.cell, self.factors = cell, ms.Tensor(factors)

    def construct(self, x):
        y = self.cell(x)
        return (y.astype(ms.float32) * self.factors).sum(), y


def outputs(cell: nn.Cell, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return a cell's target, gradients, running statistics and the inference with them; its parameters are drawn."""
    random = np.random.default_rng(0)
    for parameter in cell.trainable_params():
        parameter.set_data(ms.Tensor(random.normal(0, 0.3, parameter.shape), ms.float32))
    x = ms.Tensor(random.normal(size=shape), ms.float32)
    cell.set_train()
    factors = random.normal(size=cell(x).shape).astype(np.float32)
    function = ms.value_and_grad(Everything(cell, factors), 0, ms.ParameterTuple(cell.trainable_params()), has_aux=True)
    (_, target), (gradient, gradients) = function(x)
    named = zip((parameter.name for parameter in cell.trainable_params()), gradients, strict=True)
    others = {p.name: p for p in cell.get_parameters() if not p.requires_grad}
    inference = cell.set_train(False)(x)
    tensors = {"target": target, "gradient": gradient, "inference": inference, **dict(named), **others}
    return {name: tensor.asnumpy().astype(np.float32) for name, tensor in tensors.items()}


def main(file: Path) -> None:
    """Run all operators in graph mode and write their outputs."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    results = {
        f"{title}: {name}": values
        for title, (cell, shape) in cells().items()
        for name, values in outputs(cell, shape).items()
    }
    np.savez(file, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
