"""Random batch norms: by the native library, and in float64."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tests.native import onednn as dnn
from tests.native.onednn import Arrays, Onednn, Primitive, worst_error

GLOBAL, USE_SCALE, USE_SHIFT, RELU = 1, 2, 4, 8  # oneDNN's flags
EPSILON = 1e-5


@dataclass(frozen=True)
class BatchNorm:
    """A batch norm of (batch, channels, height, width); `level`: the channels' means in standard deviations."""

    shape: tuple[int, ...]
    flags: int = USE_SCALE | USE_SHIFT
    level: float = 3

    def draw(self, random: np.random.Generator) -> Arrays:
        """Draw source, scale, shift and the gradient of the target; mean and variance are the source's or others."""
        channels = self.shape[1]
        spread, means = (random.uniform(0.2, 3, channels) for _ in range(2))
        source = random.normal(size=self.shape) + of_channels(self.level * means)
        source = (source * of_channels(spread)).astype(np.float32)
        is_global = self.flags & GLOBAL
        mean, variance = source.mean((0, 2, 3), np.float64), source.var((0, 2, 3), np.float64)
        arrays = {
            dnn.SOURCE: source,
            dnn.SCALE: random.normal(size=channels),
            dnn.SHIFT: random.normal(size=channels),
            dnn.TARGET_GRADIENT: random.normal(size=self.shape),
            dnn.MEAN: mean + is_global * random.normal(size=channels),
            dnn.VARIANCE: variance + is_global * random.uniform(0, 1, channels),
        }
        return {key: array.astype(np.float32) for key, array in arrays.items()}


def draw_batch_norm(random: np.random.Generator, most: int = 32) -> BatchNorm:
    """Draw a batch norm of at least 8 values a channel, with every choice of flags; `most`: pixels a side."""
    while True:
        batch, channels = int(random.integers(1, 9)), int(random.choice([16, 64, *random.integers(1, 70, 2)]))
        height, width = map(int, random.integers(1, most, 2))
        if batch * height * width >= 8:
            return BatchNorm((batch, channels, height, width), int(random.integers(8)))


def of_channels(values: np.ndarray) -> np.ndarray:
    """Return values of channels in the shape that meets (batch, channels, height, width)."""
    return values[:, None, None]


def expected(case: BatchNorm, arrays: Arrays) -> dict[int, np.ndarray]:
    """Return target, statistics and gradients in float64."""
    source, gradient, scale, shift, mean, variance = (
        arrays[key].astype(np.float64)
        for key in (dnn.SOURCE, dnn.TARGET_GRADIENT, dnn.SCALE, dnn.SHIFT, dnn.MEAN, dnn.VARIANCE)
    )
    scale = scale if case.flags & USE_SCALE else np.ones_like(scale)
    shift = shift if case.flags & USE_SHIFT else np.zeros_like(shift)
    inverse, axes, is_global = 1 / np.sqrt(variance + EPSILON), (0, 2, 3), case.flags & GLOBAL
    normalized = (source - of_channels(mean)) * of_channels(inverse)
    change = gradient.mean(axes), (gradient * normalized).mean(axes)
    inner = gradient if is_global else gradient - of_channels(change[0]) - normalized * of_channels(change[1])
    return {
        dnn.TARGET: normalized * of_channels(scale) + of_channels(shift),
        dnn.MEAN: source.mean(axes),
        dnn.VARIANCE: source.var(axes),
        dnn.SOURCE_GRADIENT: inner * of_channels(scale * inverse),
        dnn.SCALE_GRADIENT: (gradient * normalized).sum(axes),
        dnn.SHIFT_GRADIENT: gradient.sum(axes),
    }


def forward_of(onednn: Onednn, case: BatchNorm, propagation: int = dnn.TRAINING):
    """Return a context with the primitive forward."""
    layout, epsilon = onednn.layout(case.shape), dnn.floating(EPSILON)
    return onednn.primitive("batch_normalization_forward", propagation, layout, layout, epsilon, case.flags, None)


@contextmanager
def both_of(onednn: Onednn, case: BatchNorm):
    """Create the primitives forward and backward; destroy them at the end."""
    layout, epsilon = onednn.layout(case.shape), dnn.floating(EPSILON)
    arguments = dnn.BACKWARD, layout, layout, layout, epsilon, case.flags
    with (
        forward_of(onednn, case) as forward,
        onednn.primitive("batch_normalization_backward", *arguments, forward.desc, None) as backward,
    ):
        yield forward, backward


def run_forward(forward: Primitive, case: BatchNorm, arrays: Arrays) -> Arrays:
    """Return target, mean and variance.

    Without a stream, which only oneDNN's own kernels need: they would refuse.
    """
    keys = [dnn.SOURCE] + [dnn.SCALE] * bool(case.flags & USE_SCALE) + [dnn.SHIFT] * bool(case.flags & USE_SHIFT)
    outputs, channels = {dnn.TARGET: case.shape}, case.shape[1:2]
    if case.flags & GLOBAL:
        keys += [dnn.MEAN, dnn.VARIANCE]
    else:
        outputs |= {dnn.MEAN: channels, dnn.VARIANCE: channels}
    return forward.run({key: arrays[key] for key in keys}, outputs, needs_stream=False)


def run_backward(backward: Primitive, case: BatchNorm, arrays: Arrays) -> Arrays:
    """Return the gradients of source, scale and shift, without a stream as `run_forward`."""
    keys = [dnn.SOURCE, dnn.TARGET_GRADIENT, dnn.MEAN, dnn.VARIANCE] + [dnn.SCALE] * bool(case.flags & USE_SCALE)
    outputs, channels = {dnn.SOURCE_GRADIENT: case.shape}, case.shape[1:2]
    outputs |= {dnn.SCALE_GRADIENT: channels} if case.flags & USE_SCALE else {}
    outputs |= {dnn.SHIFT_GRADIENT: channels} if case.flags & USE_SHIFT else {}
    return backward.run({key: arrays[key] for key in keys}, outputs, needs_stream=False)


def run_both(onednn: Onednn, case: BatchNorm, arrays: Arrays) -> Arrays:
    """Return all outputs of forward and backward."""
    with both_of(onednn, case) as (forward, backward):
        return run_forward(forward, case, arrays) | run_backward(backward, case, arrays)


def check(onednn: Onednn, case: BatchNorm, random: np.random.Generator) -> None:
    """Compare a batch norm with float64.

    Raises:
        AssertionError: a result is off by more than 1e-5 of the largest, or another run gives other bits.
    """
    arrays = case.draw(random)
    wanted = expected(case, arrays)
    first, second = run_both(onednn, case, arrays), run_both(onednn, case, arrays)
    for key, result in first.items():
        error = worst_error(result, wanted[key])
        assert error <= 1e-5, f"{case}: output {key} is off by {error:.1e}"
        assert result.tobytes() == second[key].tobytes(), f"{case}: output {key} has other bits at another run"
