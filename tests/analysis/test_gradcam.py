"""Grad-CAM against CAM by hand, and the picture that is made of it."""

import numpy as np
import pytest
from mindspore import Tensor

from rp2k_lab.analysis.gradcam import explain, overlay
from rp2k_lab.model import WithPreprocessing, create_model
from rp2k_lab.model.layers import ConvNorm
from tests.model import plain

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
LABELS = np.array([2, 0, 1])


def network_of(name, **options):
    net = create_model(name, 3, width_multiplier=0.125, depth_multiplier=0.25, **options)
    rng = np.random.default_rng(1)
    net.head.fc.weight.set_data(Tensor(rng.normal(size=net.head.fc.weight.shape).astype(np.float32)))
    net.head.fc.bias.set_data(Tensor(rng.normal(size=3).astype(np.float32)))
    return WithPreprocessing(net, MEAN, STD).set_train(False)


def last_map(network, images):
    """What the mean is taken of, float64 (batch, channels, h, w)."""
    normalised = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    net = network.network
    maps = net.backbone(Tensor(normalised.transpose(0, 3, 1, 2).astype(np.float32)))
    widen = net.head.widen
    maps = maps.asnumpy().astype(np.float64)
    if isinstance(widen, ConvNorm):
        maps = plain.relu(plain.norm(plain.conv(maps, plain.array(widen.conv.weight)), widen.bn))
    return maps


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("resnet18", {"head_width": 24}), ("efficientnet_lite0", {"drop_rate": 0.5}),
     ("swin_tiny", {})],
    ids=["resnet18", "widened", "efficientnet", "swin"],
)  # fmt: skip
def test_grad_cam_of_a_mean_and_a_dense_layer_is_cam(name, options):
    if name == "swin_tiny":
        options = {"width_multiplier": 1 / 3}
    net = create_model(name, 3, depth_multiplier=0.25, **({"width_multiplier": 0.125} | options))
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=net.head.fc.weight.shape), rng.normal(size=3)
    net.head.fc.weight.set_data(Tensor(weight.astype(np.float32)))
    net.head.fc.bias.set_data(Tensor(bias.astype(np.float32)))
    network = WithPreprocessing(net, MEAN, STD).set_train(False)

    found = explain(network, [[IMAGES[:2]], [IMAGES[2:]]], LABELS, 2)

    maps = last_map(network, IMAGES)
    area = maps.shape[2] * maps.shape[3]
    adds = (maps * weight[LABELS][:, :, None, None]).sum(1) / area
    logits = network(Tensor(IMAGES)).asnumpy()
    np.testing.assert_allclose(adds.sum((1, 2)) + bias[LABELS], logits[np.arange(3), LABELS], rtol=1e-3, atol=1e-3)
    assert (adds < 0).any()
    assert (adds > 0).any()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.maximum(adds, 0), atol=2e-4 * np.abs(adds).max())
