"""Dropout and stochastic depth whose masks are pure functions of (seed, step, element).

MindSpore 2.10: `nn.Dropout` draws from a generator that no checkpoint holds, and differs between identical runs.
"""

import zlib

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


def uniform(step: Tensor, seed: int, count: int) -> Tensor:
    """Return `count` numbers in [0, 1) for a step: MurmurHash3's 32-bit finalizer of the element's index.

    Args:
        step: int32 tensor (1,), training steps started so far.
        seed: 32 bits, different for every layer.

    Returns:
        float32 (count,).
    """
    index = Tensor(np.arange(count, dtype=np.int32))
    x = _mix(
        _mix(index ^ Tensor(np.array([seed], np.uint32).view(np.int32))) + step * -1640531527
    )  # 2^32 / golden ratio
    return (x & 0x7FFFFF).astype(mindspore.float32) / 8388608.0


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 16)) * -2048144789
    x = (x ^ _shift_right(x, 13)) * -1028477387
    return x ^ _shift_right(x, 16)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; int32 is the only integer that all devices multiply and shift."""
    return ops.bitwise_right_shift(x, Tensor(bits, mindspore.int32)) & ((1 << (32 - bits)) - 1)


class _Mask(nn.Cell):
    """A counter of training steps that draws masks; subclasses are the identity outside training.

    Args:
        rate: fraction dropped, [0, 1).
        seed: 32 bits; `seed_masks` sets it for a whole network.
    """

    def __init__(self, rate: float, seed: int = 0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop rate {rate}: must be in [0, 1)")
        self.rate, self.seed = rate, seed
        # Saved with the weights, so that a resumed run draws the same masks.
        self.step = Parameter(Tensor(np.zeros(1, np.int32)), name="step", requires_grad=False)

    def keep(self, count: int) -> Tensor:
        """Return float32 (count,): 0 with probability `rate`, otherwise 1 / (1 - rate)."""
        step = ops.assign_add(self.step, Tensor(np.ones(1, np.int32)))
        kept = uniform(step, self.seed, count) >= self.rate
        return kept.astype(mindspore.float32) / (1.0 - self.rate)


class Dropout(_Mask):
    """Dropout of elements of (batch, features) (Srivastava et al., JMLR 2014); the others are scaled up."""

    def construct(self, x):
        if not self.training:
            return x
        return x * self.keep(x.shape[0] * x.shape[1]).reshape(x.shape).astype(x.dtype)


class DropPath(_Mask):
    """Stochastic depth: drops a residual branch for whole samples (Huang et al., ECCV 2016, arXiv 1603.09382).

    The branches that stay are scaled up.
    """

    def construct(self, x):
        if not self.training or self.rate == 0:  # a frozen cell does not count steps either
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * self.keep(x.shape[0]).reshape(shape).astype(x.dtype)


def drop_path(rate: float) -> nn.Cell:
    """Return a DropPath, or at rate 0 the identity, which needs no step counter."""
    return DropPath(rate) if rate else nn.Identity()


def seed_masks(net: nn.Cell, seed: int, rank: int = 0) -> None:
    """Seed every layer that draws masks separately, from the run's seed, its parameter's name and the rank.

    The seed is a hash: two seeds that differ only in their low bits would draw the same numbers in another order.
    """
    for _, cell in net.cells_and_names():
        if isinstance(cell, _Mask):
            stream = f"{seed} {cell.step.name}" + (f" {rank}" if rank else "")
            cell.seed = zlib.crc32(stream.encode())
