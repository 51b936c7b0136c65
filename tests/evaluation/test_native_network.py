"""The native forward pass against MindSpore's, on networks with trained-like statistics."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from rp2k_lab import native
from rp2k_lab.evaluation.mindir import NotSupported
from rp2k_lab.evaluation.native_network import NativeNetwork
from rp2k_lab.evaluation.predictor import Classifier, Forward, Logits
from rp2k_lab.model import WithPreprocessing, create_model
from rp2k_lab.model.layers import batch_norm, conv, global_mean

pytestmark = pytest.mark.skipif(native.state().version is None, reason=f"native kernels: {native.state()}")

SMALL = {"width_multiplier": 0.25, "depth_multiplier": 0.25}


@pytest.fixture(autouse=True)
def graph_mode():
    before = mindspore.get_context("mode")
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    yield
    mindspore.set_context(mode=before)


def draw(network, seed=0):
    """Give a network random norms, so that folding them matters."""
    rng = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        kind = parameter.name.rpartition(".")[2]
        if kind in ("gamma", "moving_variance"):
            parameter.set_data(Tensor(rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32)))
        elif kind in ("beta", "moving_mean"):
            parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
    return network.set_train(False)


def make_images(batch=2, size=64):
    return np.random.default_rng(1).integers(0, 256, (batch, size, size, 3), np.uint8)


def largest_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


class Block(nn.Cell):
    """What a network of a plugin may be: `join` of x, a convolution of x with a norm, and a convolution of that."""

    def __init__(self, join):
        super().__init__()
        self.stem, self.conv, self.norm = conv(3, 16, 3), conv(16, 16, 3), batch_norm(16)
        self.last = conv(16, 16, 3, bias=True)
        self.fc = nn.Dense(16, 4)
        self.join = join

    def construct(self, images):
        x = ops.relu(self.stem(images))
        y = self.norm(self.conv(x))
        x = self.join(x, y, self.last(ops.relu(y)))
        return self.fc(global_mean(x))


# MindSpore reads the source of what a graph calls, which may not be a lambda.
def residual(x, y, _z):
    return ops.add(x, y)


def residual_then_needed(x, _y, z):
    return ops.mul(ops.add(x, z), x)


def doubled(_x, y, _z):
    return ops.add(y, y)


def two_users(_x, y, _z):
    return ops.mul(ops.relu(y), ops.sigmoid(y))


def swish(_x, y, _z):
    return ops.mul(y, ops.sigmoid(y))


def residual_then_relu(x, y, _z):
    return ops.relu(ops.add(y, x))


JOINS = [residual, residual_then_needed, doubled, two_users, swish, residual_then_relu]


@pytest.mark.parametrize("join", JOINS)
def test_joins_equal_mindspore(join):
    cell = Logits(WithPreprocessing(draw(Block(join)), (0.5,) * 3, (0.25,) * 3)).set_train(False)
    images = make_images(size=16)
    expected = cell(Tensor(images)).asnumpy()
    assert largest_error(NativeNetwork(cell, images)(images), expected) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("seresnext50", marks=pytest.mark.soak),
        pytest.param("efficientnet_b0", marks=pytest.mark.soak),
        pytest.param("efficientnet_lite0", marks=pytest.mark.soak),
    ],
)
def test_models_equal_mindspore_after_each_refresh(name):
    network = draw(WithPreprocessing(create_model(name, 7, **SMALL), (0.5,) * 3, (0.25,) * 3))
    cell, images = Logits(network).set_train(False), make_images()
    found = NativeNetwork(cell, images)
    first = found(images)
    assert largest_error(first, cell(Tensor(images)).asnumpy()) < 1e-5
    draw(network, 2)
    np.testing.assert_array_equal(found(images), first)
    found.refresh()
    assert largest_error(found(images), cell(Tensor(images)).asnumpy()) < 1e-5
    assert largest_error(found(images), first) > 1e-2
    np.testing.assert_array_equal(found(images), found(images))


def test_another_network_is_left_to_mindspore():
    class Norm(nn.Cell):
        def __init__(self):
            super().__init__()
            self.norm = batch_norm(3)

        def construct(self, images):
            return self.norm(images.astype("float32").transpose(0, 3, 1, 2)).mean((2, 3))

    cell, images = Classifier(draw(Norm())).set_train(False), make_images(size=8)
    with pytest.raises(NotSupported):
        NativeNetwork(cell, images)
    np.testing.assert_array_equal(Forward(cell)(images), cell(Tensor(images)).asnumpy())


def test_the_cell_keeps_its_weights_and_its_mode():
    network = draw(WithPreprocessing(create_model("resnet18", 7, **SMALL), (0.5,) * 3, (0.25,) * 3))
    before = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
    NativeNetwork(Logits(network).set_train(False), make_images())
    assert not network.training
    assert {parameter.name for parameter in network.get_parameters()} == before.keys()
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
