import math

import numpy as np
import pytest
from mindspore import Tensor, amp, nn

from rp2k_lab.model import layers
from tests.helpers import numpy_layers

pytestmark = pytest.mark.usefixtures("pynative")


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (1, 3, 4, 9), (3, 2, 1, 1)])
class TestMatrixProducts:
    @pytest.mark.parametrize(
        ("layer", "formula"),
        [
            (layers.global_mean, lambda x: x.mean((2, 3))),
            (layers.global_max, lambda x: x.max((2, 3))),
            (layers.channel_mean, lambda x: x.mean(1, keepdims=True)),
            (layers.channel_max, lambda x: x.max(1, keepdims=True)),
        ],
        ids=["global_mean", "global_max", "channel_mean", "channel_max"],
    )
    def test_reductions(self, shape, layer, formula):
        x = draw(*shape)
        np.testing.assert_allclose(layer(Tensor(x)).asnumpy(), formula(x), rtol=0, atol=1e-6)

    def test_scale_channels(self, shape):
        x, gate = draw(*shape), draw(*shape[:2])
        result = layers.scale_channels(Tensor(x), Tensor(gate)).asnumpy()
        np.testing.assert_allclose(result, x * gate[:, :, None, None], rtol=1e-6)

    def test_scale_positions(self, shape):
        x, gate = draw(*shape), draw(shape[0], 1, *shape[2:])
        result = layers.scale_positions(Tensor(x), Tensor(gate)).asnumpy()
        np.testing.assert_allclose(result, x * gate, rtol=1e-6)


def test_activations_are_exact():
    x = np.concatenate([np.linspace(-8, 8, 1001), [-60, 0, 60]]).astype(np.float32)
    normal = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()])
    np.testing.assert_allclose(layers.GELU()(Tensor(x)).asnumpy(), x * normal, rtol=1e-5, atol=1e-6)
    logistic = np.array([1 / (1 + math.exp(-value)) for value in x.tolist()])
    np.testing.assert_allclose(layers.SiLU()(Tensor(x)).asnumpy(), x * logistic, rtol=1e-5, atol=1e-6)


def layer_norm(x, cell):
    x = x.astype(np.float64)
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + cell.eps)
    return scaled * numpy_layers.array(cell.gamma) + numpy_layers.array(cell.beta)


@pytest.mark.parametrize("shape", [(3, 96), (2, 5, 7, 768), (1, 1, 8)])
def test_layer_norm(shape):
    cell = numpy_layers.draw_parameters(layers.LayerNorm(shape[-1]))
    x = 5 + 3 * draw(*shape)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), layer_norm(x, cell), rtol=1e-4, atol=1e-5)


def test_layer_norm_takes_values_whose_squares_overflow_float16():
    """Mixed precision O2 keeps it in float32, as MindSpore's LayerNorm."""
    net = amp.auto_mixed_precision(nn.SequentialCell([layers.LayerNorm(8)]), "O2")
    x = 3000 * draw(2, 8)
    np.testing.assert_allclose(net(Tensor(x)).asnumpy(), layer_norm(x, layers.LayerNorm(8)), atol=0.01)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 5), (1, 2)])
def test_max_pool_takes_the_maximum_of_3_by_3_around_every_other_pixel(size):
    x = np.abs(draw(2, 3, *size))
    result = layers.MaxPool()(Tensor(x)).asnumpy()
    rows, columns = (range(0, side, 2) for side in size)
    windows = [[x[:, :, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].max((2, 3)) for c in columns] for r in rows]
    np.testing.assert_array_equal(result, np.array(windows).transpose(2, 3, 0, 1))


def same(side, kernel, stride):
    """Return TensorFlow's padding (before, after), an odd remainder after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
class TestPadding:
    def check(self, size, kernel, stride, padding, pads):
        cell = numpy_layers.draw_parameters(layers.conv(3, 4, kernel, stride, padding=padding, bias=True))
        x = draw(2, 3, *size)
        expected = numpy_layers.conv(x, numpy_layers.array(cell.weight), numpy_layers.array(cell.bias), stride, pads)
        np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)

    def test_default_is_half_the_kernel_on_each_side(self, size, kernel, stride):
        self.check(size, kernel, stride, None, (kernel // 2,) * 4)

    def test_same_as_in_tensorflow(self, size, kernel, stride):
        pads = (*same(size[0], kernel, stride), *same(size[1], kernel, stride))
        self.check(size, kernel, stride, "same", pads)

    def test_none(self, size, kernel, stride):
        self.check(size, kernel, stride, 0, (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("kernel", "options", "pads"),
    [
        ((1, 7), {}, (0, 0, 3, 3)),
        ((7, 1), {}, (3, 3, 0, 0)),
        (3, {"dilation": 4}, (4, 4, 4, 4)),
        (3, {"groups": 2, "stride": 2}, (1, 1, 1, 1)),
        (1, {"stride": 2}, (0, 0, 0, 0)),
    ],
    ids=str,
)
def test_other_convolutions(kernel, options, pads):
    cell = numpy_layers.draw_parameters(layers.conv(4, 6, kernel, **options))
    x = draw(2, 4, 9, 8)
    expected = numpy_layers.conv(x, numpy_layers.array(cell.weight), pads=pads, **options)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relu", [True, False])
def test_conv_norm_is_convolution_norm_and_relu(relu):
    options = {} if relu else {"relu": False}
    cell = numpy_layers.draw_parameters(layers.ConvNorm(3, 4, 3, stride=2, eps=0.1, **options))
    x = draw(2, 3, 7, 6)
    expected = numpy_layers.norm(
        numpy_layers.conv(x, numpy_layers.array(cell.conv.weight), stride=2, pads=(1, 1, 1, 1)), cell.bn
    )
    assert cell.bn.eps == 0.1
    assert (expected < 0).any()
    expected = numpy_layers.relu(expected) if relu else expected
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_updates_its_statistics_as_pytorch():
    """By a tenth a step, with the unbiased variance."""
    x = 3 + 2 * draw(4, 2, 3, 3)
    cell = layers.batch_norm(2).set_train()
    cell(Tensor(x))
    values = x.transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(cell.moving_mean.asnumpy(), 0.1 * values.mean(1), rtol=1e-4)
    np.testing.assert_allclose(cell.moving_variance.asnumpy(), 0.9 + 0.1 * values.var(1, ddof=1), rtol=1e-4)
