"""Numeric precision: that of a process on its device, and that of a network."""

import functools
from typing import Protocol

import mindspore
from mindspore import nn
from mindspore.amp import auto_mixed_precision, custom_mixed_precision
from mindspore.device_context.gpu import op_precision

HALF = ("O2", "O2_half_bn", "O3")
"""The values of `device.precision` with float16 activations."""

DYNAMIC = "dynamic"
"""The value of `device.loss_scale` for a scale that adapts to overflows."""


class PrecisionOptions(Protocol):
    """The part of a `conf/device` choice that decides the precision."""

    @property
    def name(self) -> str:
        """cpu, gpu or ascend."""
        ...

    @property
    def precision(self) -> str:
        """float32, tf32 or one of HALF."""
        ...

    @property
    def loss_scale(self) -> float | str:
        """DYNAMIC, or a fixed loss scale; 1: none."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the kernels of a GPU or Ascend give the same bits every time."""
        ...


def set_up(device: PrecisionOptions) -> None:
    """Apply the precision to this process, whose device is selected; on a CPU there is nothing to apply."""
    if device.name == "gpu":
        # MindSpore 2.10 allows TF32 in convolutions unless told otherwise, and not in matrix products.
        op_precision.conv_allow_tf32(device.precision == "tf32")
        op_precision.matmul_allow_tf32(False)
    if device.name != "cpu" and device.deterministic:
        _set_deterministic()


@functools.cache
def _set_deterministic() -> None:
    """Select deterministic kernels for the rest of the process; MindSpore refuses a second call."""
    mindspore.set_deterministic(True)


def cast(network: nn.Cell, precision: str) -> nn.Cell:
    """Change a network to a precision; return it, for half precisions in a cell with float32 outputs.

    Parameters and the statistics of batch norms stay float32.  Cells that need float32 declare it (`add_flags` of
    `model.network.CosineClassifier`).

    Args:
        precision: float32 or tf32: no change; O2: float16, but batch and layer norms in float32; O2_half_bn: layer
            norms in float32; O3: all float16.
    """
    if precision not in HALF:
        return network
    if precision == "O2_half_bn":
        return custom_mixed_precision(network, black_list=[nn.LayerNorm])
    return auto_mixed_precision(network, precision)


def has_dynamic_scale(device: PrecisionOptions) -> bool:
    """Return whether the loss scale adapts to overflows; in float32 and TF32 there is nothing to scale for."""
    return device.loss_scale == DYNAMIC and device.precision in HALF


def fixed_scale(device: PrecisionOptions) -> float:
    """Return the factor of all losses; 1 without a fixed loss scale."""
    return 1.0 if device.loss_scale == DYNAMIC else float(device.loss_scale)
