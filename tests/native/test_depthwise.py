"""Our depthwise convolutions (rp2k_lab/native/depthwise.cpp) against float64 NumPy."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import rp2k_lab

SOURCES = Path(rp2k_lab.__file__).parent / "native"
COMPILER = shutil.which("g++")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")]

# The three passes for ctypes, and a program for sanitizers, whose arrays have no byte too many.
WRAPPER = """
#include <initializer_list>
#include <vector>
#include "depthwise.h"
using namespace rp2k;
extern "C" bool supports(const DepthwiseShape &shape) { return depthwise_supports(shape); }
extern "C" void run(int pass, const DepthwiseShape &shape, const float *a, const float *b, float *result, int first,
                    int last) {
  (pass == 0 ? depthwise_forward : pass == 1 ? depthwise_backward_data : depthwise_backward_weights)(
      shape, a, b, result, first, last);
}
int main(int count, char **) {
  DepthwiseShape shape;
  long *size = &shape.batch;
  while (__builtin_scanf("%ld", size) == 1) {
    if (size++ != &shape.pad_left) continue;
    size = &shape.batch;
    std::vector<float> x(shape.batch * shape.channels * shape.in_height * shape.in_width, 1);
    std::vector<float> y(shape.batch * shape.channels * shape.out_height * shape.out_width, 1);
    std::vector<float> w(shape.channels * shape.kernel_height * shape.kernel_width, 1);
    run(0, shape, x.data(), w.data(), y.data(), 0, shape.channels);
    run(1, shape, y.data(), w.data(), x.data(), 0, shape.channels);
    run(2, shape, x.data(), y.data(), w.data(), 0, shape.channels);
  }
  return count != 1;
}
"""


class Shape(ctypes.Structure):
    """DepthwiseShape of depthwise.h."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in (
            *("batch", "channels", "in_height", "in_width", "out_height", "out_width"),
            *("kernel_height", "kernel_width", "stride_y", "stride_x", "pad_top", "pad_left"),
        )
    )

    @property
    def sizes(self):
        return tuple(getattr(self, field[0]) for field in self._fields_)

    def arrays(self, seed):
        """Return random input, weights and output gradient, float32."""
        n, c, h, w, oh, ow, kh, kw = self.sizes[:8]
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(s).astype(np.float32) for s in ((n, c, h, w), (c, kh, kw), (n, c, oh, ow))]


def random_shapes(count):
    """Return shapes of all kinds: uneven kernels, pads wider than the kernel, outputs that begin and end outside."""
    rng = np.random.default_rng(18)
    shapes = []
    for number in range(count):
        kh = kw = (3, 5, 7)[number % 3]
        if number % 5 == 0:
            kh, kw = rng.integers(1, 8, 2)
        h, w, oh, ow = rng.integers(1, 20, 4)
        sy, sx = rng.integers(1, 4, 2)
        if number % 2:  # the usual relation of input and output
            oh, ow = -(-h // sy), -(-w // sx)
        top, left = rng.integers(0, kh + 2), rng.integers(0, kw + 2)
        sizes = (rng.integers(1, 4), rng.integers(1, 40), h, w, oh, ow, kh, kw, sy, sx, top, left)
        shapes.append(Shape(*map(int, sizes)))
    return shapes


# Large enough for several bands of rows, at stride 1 and 2, and for sums over 60,000 pixels.
LARGE = [Shape(1, 17, 150, 130, 150, 130, 3, 3, 1, 1, 1, 1), Shape(4, 5, 240, 250, 120, 125, 5, 5, 2, 2, 2, 2)]


def build(folder, *flags):
    source, library = folder / "wrapper.cpp", folder / "wrapper.so"
    source.write_text(WRAPPER)
    command = [COMPILER, "-std=c++17", "-O3", "-fPIC", f"-I{SOURCES}", *flags]
    subprocess.run([*command, source, SOURCES / "depthwise.cpp", "-o", library], check=True)
    return library


@pytest.fixture(scope="module", params=["widest", pytest.param("AVX2", marks=pytest.mark.soak)])
def run(request, tmp_path_factory):
    """Function of a pass (0 forward, 1 backward-data, 2 backward-weights) that returns its result."""
    flags = ["-DRP2K_WITHOUT_AVX512"] if request.param == "AVX2" else []
    library = ctypes.CDLL(build(tmp_path_factory.mktemp("native"), "-shared", *flags))
    if not library.supports(ctypes.byref(LARGE[0])):
        pytest.skip("no AVX2")

    def run(which, shape, a, b, result, first=0, last=None):
        last = shape.channels if last is None else last
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (a, b, result)]
        library.run(which, ctypes.byref(shape), *pointers, first, last)
        return result

    return run


def windows(shape, x):
    """Return the inputs that each output and tap meet (batch, channels, out_height, out_width, kh, kw), float64."""
    _, _, h, w, oh, ow, kh, kw, sy, sx, top, left = shape.sizes
    bottom, right = max(0, (oh - 1) * sy + kh - top - h), max(0, (ow - 1) * sx + kw - left - w)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (2, 3))
    return view[:, :, : (oh - 1) * sy + 1 : sy, : (ow - 1) * sx + 1 : sx]


def expected(shape, x, weights, gradient):
    """Return output, input gradient and weight gradient, float64."""
    _, _, h, w, oh, ow, kh, kw, sy, sx, top, left = shape.sizes
    seen = windows(shape, x)
    output = np.einsum("ncyxij,cij->ncyx", seen, weights.astype(np.float64))
    weight_gradient = np.einsum("ncyxij,ncyx->cij", seen, gradient.astype(np.float64))
    padded = np.zeros((*x.shape[:2], top + h + oh * sy + kh, left + w + ow * sx + kw))
    for i in range(kh):
        for j in range(kw):
            part = gradient.astype(np.float64) * weights[:, i, j].astype(np.float64)[:, None, None]
            padded[:, :, i : i + oh * sy : sy, j : j + ow * sx : sx] += part
    return output, padded[:, :, top : top + h, left : left + w], weight_gradient


def error(result, exact):
    """Return the largest error as a fraction of the exact array's maximum."""
    return np.abs(result - exact).max() / max(np.abs(exact).max(), 1e-30)


def passes(run, shape, x, weights, gradient, **channels):
    """Return the results of the three passes; what is not written is NaN."""
    sources = ((x, weights, gradient), (gradient, weights, x), (x, gradient, weights))
    return [
        run(which, shape, a, b, np.full_like(like, np.nan), **channels) for which, (a, b, like) in enumerate(sources)
    ]


def test_passes_agree_with_float64(run):
    for number, shape in enumerate(random_shapes(60) + LARGE):
        arrays = shape.arrays(number)
        errors = [error(a, b) for a, b in zip(passes(run, shape, *arrays), expected(shape, *arrays), strict=True)]
        assert errors[0] < 1e-5, shape.sizes
        assert errors[1] < 1e-5, shape.sizes
        assert errors[2] < 1e-6, shape.sizes


def test_sums_of_one_sign_stay_exact(run):
    shape = LARGE[1]
    arrays = [np.abs(array) for array in shape.arrays(0)]
    assert error(passes(run, shape, *arrays)[2], expected(shape, *arrays)[2]) < 1e-6


def test_any_split_of_channels_gives_the_same_bits(run):
    for number, shape in enumerate(random_shapes(20)):
        arrays = shape.arrays(number)
        whole = passes(run, shape, *arrays)
        first, last = shape.channels // 3, max(shape.channels // 3 + 1, shape.channels // 2)
        part = passes(run, shape, *arrays, first=first, last=last)
        for axis, a, b in zip((1, 1, 0), whole, part, strict=True):
            a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
            np.testing.assert_array_equal(a[first:last], b[first:last])
            assert np.isnan(b[:first]).all()
            assert np.isnan(b[last:]).all()


@pytest.mark.soak
@pytest.mark.parametrize("flags", [[], ["-DRP2K_WITHOUT_AVX512"]], ids=["widest", "AVX2"])
def test_sanitizers_find_nothing(tmp_path, flags):
    program = build(tmp_path, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *flags)
    sizes = "\n".join(" ".join(map(str, shape.sizes)) for shape in random_shapes(300) + LARGE)
    subprocess.run([program], input=sizes, text=True, check=True, timeout=600)
