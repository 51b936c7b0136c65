"""Attention modules against plain NumPy; test_parity.py compares whole networks with their authors' code."""

import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.model.attention import BAM, CBAM, SqueezeExcitation
from tests.helpers import numpy_layers

pytestmark = pytest.mark.usefixtures("pynative")


def squeeze_excitation(x, cell):
    """Return the paper's formula: mean, two dense layers, broadcast product."""
    w1, w2 = (numpy_layers.array(p)[:, :, 0, 0] for p in (cell.fc1.weight, cell.fc2.weight))
    hidden = numpy_layers.relu(x.mean((2, 3)) @ w1.T + numpy_layers.array(cell.fc1.bias))
    return x * numpy_layers.sigmoid(hidden @ w2.T + numpy_layers.array(cell.fc2.bias))[:, :, None, None]


def bam(x, cell):
    def conv(x, part, pad=0):
        weight, bias = numpy_layers.array(part.weight), numpy_layers.array(part.bias)
        return numpy_layers.conv(x, weight, bias, pads=(pad,) * 4, dilation=max(pad, 1))

    hidden = numpy_layers.relu(numpy_layers.norm(numpy_layers.dense(x.mean((2, 3)), cell.channel_fc1), cell.channel_bn))
    channel = numpy_layers.dense(hidden, cell.channel_fc2)[:, :, None, None]
    spatial = numpy_layers.relu(numpy_layers.norm(conv(x, cell.spatial_reduce), cell.spatial_bn0))
    spatial = numpy_layers.relu(numpy_layers.norm(conv(spatial, cell.spatial_conv1, 4), cell.spatial_bn1))
    spatial = numpy_layers.relu(numpy_layers.norm(conv(spatial, cell.spatial_conv2, 4), cell.spatial_bn2))
    return x * (1 + numpy_layers.sigmoid(channel * conv(spatial, cell.spatial_final)))


def cbam(x, cell):
    def gate(pooled):
        return numpy_layers.dense(numpy_layers.relu(numpy_layers.dense(pooled, cell.fc1)), cell.fc2)

    x = x * numpy_layers.sigmoid(gate(x.mean((2, 3))) + gate(x.max((2, 3))))[:, :, None, None]
    pooled = np.stack((x.max(1), x.mean(1)), 1)
    spatial = numpy_layers.conv(pooled, numpy_layers.array(cell.spatial.conv.weight), pads=(3, 3, 3, 3))
    return x * numpy_layers.sigmoid(numpy_layers.norm(spatial, cell.spatial.bn))


@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (3, 32, 5, 9), (1, 16, 1, 1)])
@pytest.mark.parametrize(
    ("module", "formula"),
    [(SqueezeExcitation, squeeze_excitation), (BAM, bam), (CBAM, cbam)],
    ids=lambda value: value.__name__,
)
def test_equals_its_formula(module, formula, shape):
    cell = numpy_layers.draw_parameters(module(shape[1]))
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = formula(x.astype(np.float64), cell)
    result = cell(Tensor(x)).asnumpy()
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected / x) > 0.1, "all gates are equal"


@pytest.mark.parametrize(
    ("channels", "reduced"),
    [(64, 8), (128, 8), (192, 16), (256, 16), (320, 24), (512, 32), (1024, 64), (2048, 128), (4096, 256)],
)
def test_squeeze_width_is_a_sixteenth_rounded_to_multiples_of_8(channels, reduced):
    cell = SqueezeExcitation(channels)
    assert cell.fc1.weight.shape == (reduced, channels, 1, 1)
    assert cell.fc2.weight.shape == (channels, reduced, 1, 1)
    assert (cell.fc1.bias.shape, cell.fc2.bias.shape) == ((reduced,), (channels,))


def test_squeeze_width_can_be_set():
    assert SqueezeExcitation(96, 4).fc1.weight.shape == (4, 96, 1, 1)


@pytest.mark.parametrize("module", [BAM, CBAM])
def test_reduction_is_sixteen(module):
    widths = {p.shape[0] for p in module(64).get_parameters() if p.name.endswith("fc1.weight")}
    assert widths == {4}
