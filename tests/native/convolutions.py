"""Random convolutions: by the native library, and in float64."""

import itertools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from tests.native import onednn as dnn
from tests.native.onednn import Arrays, Onednn, Primitive, sizes, worst_error

SMALL, LARGE = 40, 128  # most channels, twice as many of depthwise ones; maps have up to half as many pixels a side


@dataclass(frozen=True)
class Convolution:
    """A convolution of one to three dimensions; channels are those of a group, dilation 1 is none."""

    batch: int
    groups: int
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    bias: bool

    @property
    def target_size(self) -> tuple[int, ...]:
        axes = zip(self.size, self.kernel, self.stride, self.dilation, self.before, self.after, strict=True)
        return tuple((n + b + a - (k - 1) * d - 1) // s + 1 for n, k, s, d, b, a in axes)

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        """The shapes of source, target, weights and bias, and of their gradients, by their keys."""
        grouped = (self.groups,) if self.groups > 1 else ()
        shapes = {
            dnn.SOURCE: (self.batch, self.groups * self.inputs, *self.size),
            dnn.TARGET: (self.batch, self.groups * self.outputs, *self.target_size),
            dnn.WEIGHTS: (*grouped, self.outputs, self.inputs, *self.kernel),
            dnn.BIAS: (self.groups * self.outputs,),
        }
        return shapes | {key + dnn.GRADIENT: shape for key, shape in shapes.items()}

    def draw(self, random: np.random.Generator) -> Arrays:
        """Draw source, weights, bias and the gradient of the target."""
        keys = (dnn.SOURCE, dnn.WEIGHTS, dnn.BIAS, dnn.TARGET_GRADIENT)
        return {key: random.normal(size=self.shapes[key]).astype(np.float32) for key in keys}


FAMILIES = ("dense", "pointwise", "grouped", "depthwise", "one", "three")


def draw_convolution(family: str, random: np.random.Generator, most: int = SMALL) -> Convolution:
    """Draw a convolution of a family: one of `FAMILIES`; the last two have one and three dimensions.

    Half of the channels are multiples of 16.  Half of the convolutions are as in networks; the others have another
    kernel, stride, dilation and padding on each axis and side.
    """

    def channels(largest: int) -> int:
        return int(random.choice([random.integers(1, largest + 1), 16 * random.integers(1, largest // 16 + 2)]))

    rank = {"one": 1, "three": 3}.get(family, 2)
    groups, inputs, outputs = 1, channels(most), channels(most)
    if family == "grouped":
        groups, inputs, outputs = int(random.integers(2, 5)), channels(most // 2), channels(most // 2)
    if family == "depthwise":
        groups, inputs, outputs = channels(2 * most), 1, 1
    while True:
        size = random.integers(1, most // 2 if rank < 3 else 8, rank)
        kernel = random.choice([1] if family == "pointwise" else [1, 2, 3, 3, 5, 7], rank)
        stride, dilation = random.choice([1, 1, 2, 3], rank), random.choice([1, 1, 2, 3], rank)
        before, after = random.integers(0, kernel), random.integers(0, kernel)
        if random.integers(2):  # as in networks
            kernel, stride, dilation = np.full_like(kernel, kernel[0]), np.full_like(stride, stride[0]), [1] * rank
            before = after = kernel // 2
        axes = (tuple(map(int, axis)) for axis in (size, kernel, stride, dilation, before, after))
        batch, bias = int(random.integers(1, 5)), bool(random.integers(2))
        drawn = Convolution(batch, groups, inputs, outputs, *axes, bias)
        if min(drawn.target_size) > 0:
            return drawn


def expected(case: Convolution, arrays: Arrays) -> dict[int, np.ndarray]:
    """Return target and gradients in float64: a sum over the kernel's taps of products with a shifted source."""
    rank, grouped = len(case.size), (case.batch, case.groups, -1)
    source, gradient, weights, bias = (
        arrays[key].astype(np.float64) for key in (dnn.SOURCE, dnn.TARGET_GRADIENT, dnn.WEIGHTS, dnn.BIAS)
    )
    padded = np.pad(source, ((0, 0), (0, 0), *zip(case.before, case.after, strict=True)))
    padded = padded.reshape(*grouped, *padded.shape[2:])
    gradient = gradient.reshape(*grouped, *gradient.shape[2:])
    weights = weights.reshape(case.groups, case.outputs, case.inputs, *case.kernel)
    target, padded_gradient, weights_gradient = np.zeros_like(gradient), np.zeros_like(padded), np.zeros_like(weights)
    for tap in itertools.product(*map(range, case.kernel)):
        axes = zip(tap, case.dilation, case.stride, case.target_size, strict=True)
        places = (..., *(slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, s, n in axes))
        weight, seen = weights[(..., *tap)], padded[places]
        target += np.einsum("goi,ngi...->ngo...", weight, seen, optimize=True)
        padded_gradient[places] += np.einsum("goi,ngo...->ngi...", weight, gradient, optimize=True)
        flat = (array.reshape(*array.shape[:3], -1) for array in (gradient, seen))
        weights_gradient[(..., *tap)] = np.einsum("ngop,ngip->goi", *flat, optimize=True)
    inside = (..., *(slice(b, b + n) for b, n in zip(case.before, case.size, strict=True)))
    target = target.reshape(case.shapes[dnn.TARGET])
    return {
        dnn.TARGET: target + case.bias * bias.reshape(-1, *(1,) * rank),
        dnn.SOURCE_GRADIENT: padded_gradient[inside].reshape(case.shapes[dnn.SOURCE]),
        dnn.WEIGHTS_GRADIENT: weights_gradient.reshape(case.shapes[dnn.WEIGHTS]),
        dnn.BIAS_GRADIENT: gradient.sum((0, *range(3, 3 + rank))).reshape(-1),
    }


@dataclass
class Step:
    """A primitive of a convolution with the keys of its arguments."""

    primitive: Primitive
    shapes: dict[int, tuple[int, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def is_reordered(self) -> bool:
        """Whether oneDNN computes in other layouts than the caller's."""
        return self.primitive.is_reordered({key: self.shapes[key] for key in (*self.inputs, *self.outputs)})

    def run(self, arrays: Arrays, *, needs_stream: bool = True) -> Arrays:
        """Return the outputs."""
        inputs = {key: arrays[key] for key in self.inputs}
        outputs = {key: self.shapes[key] for key in self.outputs}
        return self.primitive.run(inputs, outputs, needs_stream=needs_stream)

    def is_ours(self, arrays: Arrays) -> bool:
        """Return whether a kernel of ours computes: oneDNN's kernels refuse to run without a stream."""
        try:
            self.run(arrays, needs_stream=False)
        except dnn.Refused:
            return False
        return True


@contextmanager
def steps(onednn: Onednn, case: Convolution):
    """Create the primitives forward, backward data and backward weights; destroy them at the end."""
    shapes = case.shapes
    source, weights, target = (onednn.layout(shapes[key]) for key in (dnn.SOURCE, dnn.WEIGHTS, dnn.TARGET))
    bias = onednn.layout(shapes[dnn.BIAS]) if case.bias else None
    axes = [sizes(case.stride), sizes([d - 1 for d in case.dilation]), sizes(case.before), sizes(case.after)]
    with ExitStack() as stack:

        def make(name: str, *arguments) -> Primitive:
            return stack.enter_context(onednn.primitive(f"convolution_{name}", *arguments, None))

        forward = make("forward", dnn.TRAINING, dnn.DIRECT, source, weights, bias, target, *axes)
        data = make("backward_data", dnn.DIRECT, source, weights, target, *axes, forward.desc)
        both = make("backward_weights", dnn.DIRECT, source, weights, bias, target, *axes, forward.desc)
        biases, gradients = (dnn.BIAS,) * case.bias, (dnn.BIAS_GRADIENT,) * case.bias
        yield [
            Step(forward, shapes, (dnn.SOURCE, dnn.WEIGHTS, *biases), (dnn.TARGET,)),
            Step(data, shapes, (dnn.TARGET_GRADIENT, dnn.WEIGHTS), (dnn.SOURCE_GRADIENT,)),
            Step(both, shapes, (dnn.SOURCE, dnn.TARGET_GRADIENT), (dnn.WEIGHTS_GRADIENT, *gradients)),
        ]


# A megabyte of source in another layout than the caller's.
_POISON = Convolution(1, 1, 256, 16, (32, 32), (2, 2), (1, 1), (1, 1), (0, 0), (0, 0), False)


def poison(onednn: Onednn) -> None:
    """Leave NaN in the library's buffer, also where the next convolution should write zeros."""
    with steps(onednn, _POISON) as (forward, *_):
        assert forward.is_reordered
        forward.run({key: np.full(shape, np.nan, np.float32) for key, shape in _POISON.shapes.items()})


def check(onednn: Onednn, case: Convolution, random: np.random.Generator) -> list[bool]:
    """Compare a convolution with float64; return of its three primitives which are reordered.

    Raises:
        AssertionError: a result is off by more than 1e-5 of the largest, or another run gives other bits.
    """
    arrays = case.draw(random)
    wanted, reordered = expected(case, arrays), []
    with steps(onednn, case) as all_steps:
        for step in all_steps:
            poison(onednn)
            first, second = step.run(arrays), step.run(arrays)
            for key, result in first.items():
                error = worst_error(result, wanted[key])
                assert error <= 1e-5, f"{case}: output {key} is off by {error:.1e}"
                assert result.tobytes() == second[key].tobytes(), f"{case}: output {key} has other bits at another run"
            reordered.append(step.is_reordered)
    return reordered
