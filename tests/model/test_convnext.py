"""A block of ConvNeXt against NumPy; test_parity.py compares the whole network with timm's."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.model import convnext, create_model
from tests.helpers import numpy_layers, parity_inputs


def layer_norm(x, cell):
    centered = x - x.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return normed * numpy_layers.array(cell.gamma) + numpy_layers.array(cell.beta)


def gelu(x):
    from scipy.special import ndtr

    return x * ndtr(x)


@pytest.mark.usefixtures("pynative")
def test_a_block_equals_its_formula():
    block = numpy_layers.draw_parameters(convnext.Block(6, nn.Identity()))
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 8)).astype(np.float32)
    weight, bias = numpy_layers.array(block.conv_dw.weight), numpy_layers.array(block.conv_dw.bias)
    y = numpy_layers.conv(x, weight, bias, pads=(3, 3, 3, 3), groups=6).transpose(0, 2, 3, 1)
    y = gelu(numpy_layers.dense(layer_norm(y, block.norm), block.mlp.fc1))
    y = numpy_layers.dense(y, block.mlp.fc2) * numpy_layers.array(block.layer_scale.scale)
    np.testing.assert_allclose(block(Tensor(x)).asnumpy(), x + y.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("pynative")
def test_the_last_norm_follows_the_mean():
    net = create_model("convnext_tiny", 5, width_multiplier=1 / 12, depth_multiplier=0.1)
    backbone = numpy_layers.draw_parameters(net.backbone)
    images = Tensor(parity_inputs.draw_images(2, (64, 96)))
    pooled = backbone.stages(backbone.stem(images)).asnumpy().mean((2, 3), dtype=np.float64)
    features = backbone(images).asnumpy()
    assert features.shape == (2, 64, 1, 1)
    np.testing.assert_allclose(features[..., 0, 0], layer_norm(pooled, backbone.norm), rtol=1e-3, atol=1e-3)
