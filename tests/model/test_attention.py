import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.model.attention import SqueezeExcitation, _round_to_multiple

pytestmark = pytest.mark.usefixtures("pynative")


def plain(x, cell):
    """The paper's formulation: mean, two dense layers, broadcast product."""
    w1, b1, w2, b2 = (
        p.asnumpy().astype(np.float64) for p in (cell.fc1.weight, cell.fc1.bias, cell.fc2.weight, cell.fc2.bias)
    )
    hidden = np.maximum(x.mean((2, 3)) @ w1[:, :, 0, 0].T + b1, 0)
    gate = 1 / (1 + np.exp(-(hidden @ w2[:, :, 0, 0].T + b2)))
    return x * gate[:, :, None, None]


@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (3, 32, 5, 9), (1, 16, 1, 1)])
def test_equals_mean_and_broadcast(shape):
    rng = np.random.default_rng(0)
    cell = SqueezeExcitation(shape[1])
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(rng.normal(0, 0.5, parameter.shape).astype(np.float32)))
    x = rng.normal(size=shape).astype(np.float32)
    result = cell(Tensor(x)).asnumpy()
    assert result.shape == shape
    np.testing.assert_allclose(result, plain(x.astype(np.float64), cell), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "reduced"), [(256, 16), (512, 32), (1024, 64), (2048, 128), (4096, 256), (64, 8)])
def test_reduced_width(channels, reduced):
    cell = SqueezeExcitation(channels)
    assert cell.fc1.weight.shape == (reduced, channels, 1, 1)
    assert cell.fc2.weight.shape == (channels, reduced, 1, 1)
    assert (cell.fc1.bias.shape, cell.fc2.bias.shape) == ((reduced,), (channels,))


@pytest.mark.parametrize(("width", "rounded"), [(3, 8), (8, 8), (11.9, 16), (12, 16), (19, 24), (20, 24), (100, 104)])
def test_round_to_multiple(width, rounded):
    """At most 10 % below: 11.9 would go to 8, and 19 to 16."""
    assert _round_to_multiple(width, 8) == rounded
