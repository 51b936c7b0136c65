"""Grad-CAM against CAM, and its overlay."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab.analysis.gradcam import draw_contours, explain, overlay
from rp2k_lab.analysis.occlusion import GRID
from rp2k_lab.model import WithPreprocessing, create_model
from rp2k_lab.model.layers import ConvNorm
from rp2k_lab.model.network import Head, Network
from tests.helpers import numpy_layers

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 128, 160, 3), np.uint8)
LABELS = np.array([2, 0, 1])


def network_of(name, **options):
    """Return a small network with an asymmetric classifier."""
    net = create_model(name, 3, depth_multiplier=0.25, **options)
    rng = np.random.default_rng(1)
    for parameter in (net.head.fc.weight, net.head.fc.bias):
        parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    return WithPreprocessing(net, MEAN, STD).set_train(False)


def last_map(network, images):
    """Return the map before the global mean, float64 (batch, channels, h, w)."""
    normalized = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    net = network.network
    maps = net.backbone(Tensor(normalized.transpose(0, 3, 1, 2).astype(np.float32)))
    widen = net.head.widen
    maps = maps.asnumpy().astype(np.float64)
    if isinstance(widen, ConvNorm):
        maps = numpy_layers.relu(
            numpy_layers.norm(numpy_layers.conv(maps, numpy_layers.array(widen.conv.weight)), widen.bn)
        )
    return maps


@pytest.mark.usefixtures("pynative")  # only `explain` is compiled: graphs of all cells take long
@pytest.mark.parametrize(
    ("name", "options", "mode"),
    [
        pytest.param(
            "resnet18",
            {"width_multiplier": 0.125, "head_width": 24, "drop_rate": 0.5},
            mindspore.GRAPH_MODE,
            id="widened",
        ),
        pytest.param("swin_tiny", {"width_multiplier": 1 / 3}, mindspore.PYNATIVE_MODE, id="tokens"),
    ],
)
def test_grad_cam_equals_cam_for_a_mean_and_a_dense_layer(name, options, mode):
    network = network_of(name, **options)
    mindspore.set_context(mode=mode)
    heat = explain(network, [[IMAGES[:2]], [IMAGES[2:]]], LABELS, 2).maps
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    maps, classifier = last_map(network, IMAGES), network.network.head.fc
    contributions = np.einsum("nchw,nc->nhw", maps, numpy_layers.array(classifier.weight)[LABELS]) / np.prod(
        maps.shape[2:]
    )
    assert min((contributions < 0).sum(), (contributions > 0).sum()) > 3
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, np.maximum(contributions, 0), atol=2e-4 * np.abs(contributions).max())
    logits = network(Tensor(IMAGES)).asnumpy()[np.arange(3), LABELS]
    np.testing.assert_allclose(
        contributions.sum((1, 2)) + numpy_layers.array(classifier.bias)[LABELS], logits, rtol=1e-3, atol=1e-3
    )


class Bright(nn.Cell):
    """A backbone of two channels: the brightness of 32-pixel cells, and its negative."""

    num_features = 2

    def construct(self, images):
        mean = ops.avg_pool2d(images, 32, 32).mean(1, keep_dims=True)
        return ops.concat((mean, -mean), 1)


@pytest.mark.usefixtures("graph_mode")
def test_heat_is_at_the_object():
    """A white corner on black; class 0 is bright, class 1 dark.  Expected values by hand, for 16 cells."""
    net = Network(Bright(), Head(2, 2), "bright")
    net.head.fc.weight.set_data(Tensor(np.array([[2, -1], [-1, 0]], np.float32)))
    image = np.zeros((1, 128, 128, 3), np.uint8)
    image[0, :32, 96:] = 255
    network = WithPreprocessing(net, (0.25,) * 3, (0.25,) * 3)
    heat, method = explain(network, [[image], [image]], np.array([0, 1]), 1)
    assert method == "Grad-CAM"
    corner = np.zeros((4, 4))
    corner[0, 3] = 1  # white is normalized to 3, black to -1; the weights of brightness add up to 3 and to -1
    np.testing.assert_allclose(heat[0], corner * 9 / 16, atol=1e-5)
    np.testing.assert_allclose(heat[1], (1 - corner) / 16, atol=1e-5)


@pytest.mark.usefixtures("graph_mode")
def test_small_inputs_use_occlusion():
    """Grad-CAM would have a map of two cells."""
    net = Network(Bright(), Head(2, 2), "bright")
    net.head.fc.weight.set_data(Tensor(np.array([[2, -1], [-1, 0]], np.float32)))
    images = np.full((2, 32, 64, 3), 64, np.uint8)
    images[:, :, 40:] = 255
    network = WithPreprocessing(net, (0.25,) * 3, (0.25,) * 3)
    heat, method = explain(network, [[images[:1]], [images[1:]]], np.array([0, 1]), 3)
    assert method == "occlusion"
    assert heat.shape == (2, GRID, GRID)
    assert heat[0, :, -1].min() > 0.01
    np.testing.assert_allclose(heat[0, :, :2], 0, atol=1e-5)
    np.testing.assert_allclose(heat[1], 0, atol=1e-5)  # dark: covering the bright side raises its logit
    none = explain(network, [[images[:1]], [images[1:]]], np.array([0, 1]), 3, least_cells=2)
    assert (len(none.maps), none.method) == (0, "")


def test_no_images_give_no_maps():
    assert explain(WithPreprocessing(Network(Bright(), Head(2, 2), "bright"), MEAN, STD), [], [], 4).maps.shape[0] == 0


def test_check_is_called_between_batches():
    def stop():
        raise InterruptedError

    network = WithPreprocessing(Network(Bright(), Head(2, 2), "bright"), MEAN, STD)
    with pytest.raises(InterruptedError):
        explain(network, [[IMAGES[:2]]], LABELS, 2, stop)


def test_overlay_is_red_at_the_maximum_and_gray_at_zero():
    image = np.full((40, 60, 3), (40, 160, 90), np.uint8)
    heat = np.zeros((2, 3), np.float32)
    heat[0, 2] = 1e-3
    shown = overlay(image, heat)
    assert (shown.shape, shown.dtype) == (image.shape, np.uint8)
    hot, cold = shown[2, -2].astype(int), shown[-2, 2].astype(int)
    assert np.ptp(cold) == 0
    assert hot[0] > image[0, 0, 0] + 50
    np.testing.assert_allclose(hot, np.array([40, 160, 90]) * 0.65 + np.array([255, 40, 0]) * 0.35, atol=2)


def test_overlay_without_heat_is_gray():
    shown = overlay(IMAGES[0], np.zeros((2, 2), np.float32))
    assert np.ptp(shown, axis=-1).max() == 0


def test_contours_surround_the_heat_and_keep_the_colors_elsewhere():
    image = np.full((80, 80, 3), (40, 160, 90), np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[2:4, 4:6] = 1e-3  # pixels 20 to 40 from above, 40 to 60 from the left
    drawn = draw_contours(image, heat)
    rows, columns = np.nonzero((drawn != image).any(-1))
    assert 12 <= rows.min() < 22
    assert 38 < rows.max() <= 48
    assert 32 <= columns.min() < 42
    assert 58 < columns.max() <= 68
    np.testing.assert_array_equal(drawn[28:32, 48:52], image[28:32, 48:52])  # within
    np.testing.assert_array_equal(image, np.full((80, 80, 3), (40, 160, 90)))


def test_there_are_no_contours_without_heat():
    np.testing.assert_array_equal(draw_contours(IMAGES[0], np.zeros((7, 7), np.float32)), IMAGES[0])


def test_contours_do_not_follow_the_edges_of_the_image():
    image, heat = np.full((80, 80, 3), 90, np.uint8), np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    drawn = (draw_contours(image, heat) != image).any(-1)
    assert drawn[:, 34:46].any(axis=1).all()
    assert not drawn[:, 50:].any()
    assert not drawn[:, :30].any()
