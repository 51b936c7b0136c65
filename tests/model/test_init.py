import numpy as np
import pytest
from mindspore import nn

from rp2k_lab.model.init import initialize
from rp2k_lab.model.layers import conv
from rp2k_lab.model.network import Head, Network
from rp2k_lab.model.swin import WindowAttention


class Block(nn.Cell):
    def __init__(self, extra=False):
        super().__init__()
        if extra:
            self.extra = conv(8, 8, 3)
        self.conv1 = conv(8, 256, 3, bias=True)
        self.bn1 = nn.BatchNorm2d(256)
        self.conv2 = conv(256, 128, 3, groups=4)
        self.bn2 = nn.BatchNorm2d(128)
        self.fc = nn.Dense(400, 300)

    def last_norm(self):
        return self.bn2


@pytest.fixture
def block():
    net = Block()
    initialize(net, seed=0)
    return net


@pytest.mark.parametrize(("name", "variance"), [("conv1", 2 / (256 * 9)), ("conv2", 2 / (128 * 9 / 4))])
def test_convolutions_are_normal_with_variance_2_over_fan_out(block, name, variance):
    values = getattr(block, name).weight.asnumpy()
    assert values.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / values.size))
    assert values.var() == pytest.approx(variance, rel=0.05)
    kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
    assert kurtosis == pytest.approx(3, abs=0.25)


def test_dense_layers_are_uniform_within_1_over_root_fan_in(block):
    values = block.fc.weight.asnumpy()
    assert np.abs(values).max() == pytest.approx(1 / 20, rel=1e-3)
    assert values.var() == pytest.approx((1 / 20) ** 2 / 3, rel=0.02)


def test_biases_are_zero(block):
    assert not block.fc.bias.asnumpy().any()
    assert not block.conv1.bias.asnumpy().any()


def test_last_norm_of_a_block_starts_at_zero_and_the_others_at_one(block):
    assert (block.bn1.gamma.asnumpy() == 1).all()
    assert (block.bn2.gamma.asnumpy() == 0).all()
    assert not block.bn2.beta.asnumpy().any()


def test_an_extra_layer_changes_no_other_weight(block):
    other = Block(extra=True)
    initialize(other, seed=0)
    np.testing.assert_array_equal(other.conv1.weight.asnumpy(), block.conv1.weight.asnumpy())
    np.testing.assert_array_equal(other.fc.weight.asnumpy(), block.fc.weight.asnumpy())


def test_another_seed_changes_every_weight(block):
    other = Block()
    initialize(other, seed=1)
    for name in ("conv1", "conv2", "fc"):
        one, another = (getattr(net, name).weight.asnumpy() for net in (block, other))
        assert (one != another).mean() > 0.99, name


def test_a_backbone_can_set_the_deviation_of_dense_layers():
    class Backbone(nn.Cell):
        dense_std = 0.02

        def __init__(self):
            super().__init__()
            self.attention = WindowAttention(64, 8)
            self.proj = conv(3, 64, 4)

    net = Network(Backbone(), Head(64, 300), "tiny")
    initialize(net, seed=0)
    attention = net.backbone.attention
    for parameter in (attention.relative_position_bias_table, attention.qkv.weight, net.head.fc.weight):
        assert parameter.asnumpy().std() == pytest.approx(0.02, rel=0.1), parameter.name
    assert net.backbone.proj.weight.asnumpy().std() == pytest.approx(np.sqrt(2 / (64 * 16)), rel=0.1)


def test_layers_of_equal_shape_differ():
    net = nn.SequentialCell([conv(8, 8, 3), conv(8, 8, 3)])
    initialize(net, seed=0)
    assert (net[0].weight.asnumpy() != net[1].weight.asnumpy()).all()
